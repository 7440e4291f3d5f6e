//! The examples of the README do what it says, against the real program.
//!
//! A block whose fence says `run` is an example; the next `text` block is what it prints.

use std::path::Path;
use std::process::Command;

use tests::program::Program;

/// A code block of the README.
#[derive(Debug)]
struct Block {
    /// What its fence says, such as `sh run`.
    fence: String,
    /// The line on which it begins, from 1.
    line: usize,
    text: String,
}

impl Block {
    fn is_example(&self) -> bool {
        self.fence.ends_with(" run")
    }

    /// Runs it as a reader would who has set the two variables; what it printed.
    fn run(&self, url: &str, key: &str) -> String {
        let mut command = match self.fence.as_str() {
            "sh run" => Command::new("bash"),
            "python run" => Command::new("python3"),
            other => panic!("nobody knows how to run {other}, line {}", self.line),
        };
        if self.fence == "sh run" {
            command.args(["-e", "-u", "-o", "pipefail"]);
        }
        let output = command
            .args(["-c", &self.text])
            .env("EM_URL", url)
            .env("EM_API_KEY", key)
            .output()
            .expect("it starts");
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        let ended = output.status;
        assert!(
            ended.success(),
            "line {}: {ended}\n{stdout}\n{stderr}",
            self.line
        );
        stdout
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("UTF-8")
}

/// The workspace's folder.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn readme() -> String {
    std::fs::read_to_string(Path::new(ROOT).join("README.md")).expect("the README is there")
}

fn blocks() -> Vec<Block> {
    let readme = readme();
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (index, line) in readme.lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(fence), None) => {
                open = Some(Block {
                    fence: fence.to_owned(),
                    line: index + 1,
                    text: String::new(),
                });
            }
            (None, Some(block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

/// The address that the program's log tells.
fn url(program: &Program) -> String {
    let log = program.log();
    let ready = log.lines().find(|line| line.contains("\"ready\""));
    let ready: serde_json::Value =
        serde_json::from_str(ready.expect("it is ready")).expect("a line of JSON");
    ready["url"].as_str().expect("its address").to_owned()
}

#[tokio::test]
async fn every_example_prints_what_the_readme_says() {
    let blocks = blocks();
    let program = Program::start().await;
    let mut languages = Vec::new();
    for (index, example) in blocks
        .iter()
        .enumerate()
        .filter(|(_, block)| block.is_example())
    {
        let says = blocks.get(index + 1).filter(|block| block.fence == "text");
        let says = says.unwrap_or_else(|| panic!("line {}: what does it print?", example.line));
        let prints = example.run(&url(&program), &program.key());
        assert_eq!(
            prints.trim_end(),
            says.text.trim_end(),
            "line {}",
            example.line
        );
        languages.push(example.fence.as_str());
    }
    languages.sort_unstable();
    assert_eq!(
        languages,
        [
            "python run",
            "python run",
            "sh run",
            "sh run",
            "sh run",
            "sh run"
        ]
    );
}

/// What a transcript of the quickstart has at every run: from the build on, without what cargo says, and without numbers
/// of processes.
fn lasting(transcript: &str) -> Vec<String> {
    let lines = transcript.lines().map(str::trim_end);
    lines
        .skip_while(|line| !line.starts_with("== building"))
        .filter(|line| !line.is_empty() && !line.starts_with(' '))
        .map(|line| match line.split_once("quickstart-") {
            Some((before, number)) if number.parse::<u32>().is_ok() => {
                format!("{before}quickstart-N")
            }
            _ => line.to_owned(),
        })
        .collect()
}

#[test]
fn the_quickstart_runs_as_the_readme_shows() {
    let shown = blocks()
        .into_iter()
        .find(|block| block.text.starts_with("# scripts/quickstart --once\n"))
        .expect("a transcript");
    let output = Command::new("bash")
        .args(["-c", "exec scripts/quickstart --once 2>&1"])
        .current_dir(ROOT)
        // As on a machine where nothing is prepared: the build makes the runner itself.
        .env_remove("EM_RUNNER_BIN")
        .output()
        .expect("it starts");
    let printed = text(output.stdout);
    assert!(output.status.success(), "{}\n{printed}", output.status);
    let lasting_lines = lasting(&printed);
    assert_eq!(lasting_lines, lasting(&shown.text), "{printed}");
    assert!(lasting_lines.contains(&"the command: succeeded, exit code 0".to_owned()));
}

#[test]
fn every_link_leads_to_a_file() {
    let readme = readme();
    let links: Vec<_> = readme
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .collect();
    assert!(links.contains(&"CONTRIBUTING.md"), "{links:?}");
    for link in links {
        assert!(Path::new(ROOT).join(link).is_file(), "{link} is not there");
    }
}
