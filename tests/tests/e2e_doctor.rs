//! What a machine lacks for environments is said in the same words by `doctor`, by `/ready` and at the start, with the
//! command that mends it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::{Command, Output};

use nix::unistd::Uid;
use serde_json::Value;
use tempfile::TempDir;
use tests::program::{Program, beside, ordinary, wait_until};

/// The programs of this machine but for some, as a PATH of one folder.
struct Machine {
    folder: TempDir,
}

impl Machine {
    fn without(missing: &[&str]) -> Self {
        let folder = TempDir::with_prefix("em-path-").expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("set");
        let path = std::env::var_os("PATH").expect("a PATH");
        let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
        for entry in places
            .filter_map(|place| fs::read_dir(place).ok())
            .flatten()
        {
            let entry = entry.expect("an entry");
            let name = entry.file_name();
            if !missing.contains(&&*name.to_string_lossy()) {
                // The first of two is there already.
                let _ = symlink(entry.path(), folder.path().join(name));
            }
        }
        Self { folder }
    }

    fn path(&self) -> String {
        self.folder.path().display().to_string()
    }

    /// What the doctor says of it to who runs the tests.
    fn doctor(&self) -> Said {
        let output = Command::new(beside("environment-manager"))
            .arg("doctor")
            .env("PATH", self.path())
            .output();
        Said::by(output.expect("it runs"))
    }

    /// What the doctor says of its OCI runtime, and what mends that, as one line has both.
    fn words_about_the_runtime(&self) -> String {
        let said = self.doctor();
        let (_, says, mend) = said.about("OCI runtime");
        format!("{says}: {}", mend.expect("what mends it"))
    }

    /// What the doctor says of it to an ordinary user.
    fn doctor_of_a_user(&self) -> Said {
        let mut command = ordinary::prepared(&["doctor"]);
        let output = command.env("PATH", self.path()).output();
        Said::by(output.expect("it runs"))
    }
}

/// What the doctor said.
struct Said {
    code: Option<i32>,
    text: String,
}

impl Said {
    fn by(output: Output) -> Self {
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let code = output.status.code();
        Self { code, text }
    }

    /// What it says about something, and what mends that; the last of them, where the user and the machine are looked at.
    #[track_caller]
    fn about(&self, about: &str) -> (&str, &str, Option<&str>) {
        let lines: Vec<&str> = self.text.lines().collect();
        let of = |line: &&str| line.get(9..).is_some_and(|rest| rest.starts_with(about));
        let at = lines
            .iter()
            .rposition(|line| !line.starts_with(' ') && of(line));
        let at = at.unwrap_or_else(|| panic!("nothing about {about}: {}", self.text));
        let (verdict, says) = lines[at].split_at(9);
        let next = lines.get(at + 1).map(|line| line.trim_start());
        let mend = next.and_then(|line| line.strip_prefix("next: "));
        (verdict.trim(), says[about.len()..].trim(), mend)
    }

    fn last_line(&self) -> &str {
        self.text.lines().last().unwrap_or_default()
    }
}

const HAD: [&str; 2] = [
    "environments can be had",
    "environments can be had, with less than could be",
];

#[test]
fn a_machine_that_lacks_nothing_is_good() {
    let said = Machine::without(&[]).doctor();
    assert_eq!(said.code, Some(0), "{}", said.text);
    assert!(HAD.contains(&said.last_line()), "{}", said.text);
    let good = ["rights", "user namespaces", "images", "environment"];
    for about in good {
        assert_eq!(said.about(about).0, "good", "{about}: {}", said.text);
    }
    if Uid::effective().is_root() {
        assert!(
            said.about("rights").1.starts_with("root: "),
            "{}",
            said.text
        );
        assert_eq!(said.about("limits").0, "good", "{}", said.text);
    }
}

#[test]
fn what_a_machine_lacks_is_named_with_the_command_that_mends_it() {
    let runc = "the OCI runtime `runc` is not installed";
    for (without, about, verdict, says, mend) in [
        (
            &["runc"][..],
            "OCI runtime",
            "missing",
            runc,
            "apt-get install runc, or set runtime.binary to crun, which is there",
        ),
        (
            &["runc", "crun"],
            "OCI runtime",
            "missing",
            runc,
            "apt-get install runc",
        ),
        (
            &["slirp4netns"],
            "network",
            "lacking",
            "a network for environments needs slirp4netns",
            "apt-get install slirp4netns",
        ),
        (
            &["slirp4netns", "nft"],
            "network",
            "lacking",
            "a network for environments needs slirp4netns and nftables",
            "apt-get install slirp4netns nftables",
        ),
        (
            &["skopeo"],
            "images",
            "lacking",
            "only the image `host` can be had without skopeo",
            "apt-get install skopeo",
        ),
        (
            &["skopeo", "umoci"],
            "images",
            "lacking",
            "only the image `host` can be had without skopeo and umoci",
            "apt-get install skopeo umoci",
        ),
    ] {
        let machine = Machine::without(without);
        for said in [machine.doctor(), machine.doctor_of_a_user()] {
            assert_eq!(
                said.about(about),
                (verdict, says, Some(mend)),
                "{}",
                said.text
            );
            if verdict == "missing" {
                assert_eq!(
                    (said.code, said.last_line()),
                    (Some(1), "no environments can be had")
                );
            } else {
                assert_eq!(
                    (said.code, said.last_line()),
                    (Some(0), HAD[1]),
                    "{}",
                    said.text
                );
                assert_eq!(said.about("environment").0, "good", "{}", said.text);
            }
        }
    }
}

#[test]
fn a_user_without_the_programs_for_ids_is_told_so_by_doctor_and_at_the_start() {
    let machine = Machine::without(&["newuidmap"]);
    let said = machine.doctor_of_a_user();
    let (verdict, says, mend) = said.about("id maps");
    assert_eq!((verdict, mend), ("missing", Some("apt-get install uidmap")));
    assert_eq!(
        (said.code, said.last_line()),
        (Some(1), "no environments can be had")
    );
    let folder = tempfile::tempdir().expect("a folder");
    ordinary::give(folder.path());
    let data = folder.path().join("data").display().to_string();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--data-dir", &data];
    let mut command = ordinary::prepared(&serve);
    let ended = command
        .env("PATH", machine.path())
        .output()
        .expect("it runs");
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let told = String::from_utf8(ended.stderr).expect("UTF-8");
    for part in [says, "apt-get install uidmap"] {
        assert!(told.contains(part), "{part:?} in {told}");
    }
}

#[test]
fn a_service_without_an_oci_runtime_does_not_start_and_says_what_the_doctor_says() {
    let machine = Machine::without(&["runc"]);
    let words = machine.words_about_the_runtime();
    let folder = tempfile::tempdir().expect("a folder");
    let ended = Command::new(beside("environment-manager"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(folder.path().join("data"))
        .env("PATH", machine.path())
        .output()
        .expect("it runs");
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let told = String::from_utf8(ended.stderr).expect("UTF-8");
    assert!(told.contains(&words), "{words:?} in {told}");
}

#[tokio::test]
async fn a_service_whose_oci_runtime_goes_is_not_ready_and_says_what_the_doctor_says() {
    let machine = Machine::without(&[]);
    let mut program = Program::start().await;
    program.kill9();
    program.set("PATH", Some(&machine.path()));
    program.restart().await;
    let runtime = machine.folder.path().join("runc");
    let real = fs::read_link(&runtime).expect("a link");
    fs::remove_file(&runtime).expect("removed");
    let words = machine.words_about_the_runtime();
    let client = program.client();
    let ready = client.get("/ready").await.expect(503).json();
    assert_eq!(ready["runtime"], "error", "{ready}");
    assert_eq!(ready["store"], "ok", "{ready}");
    let log = program.log();
    let told: Vec<Value> = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &Value| line["backend"] == "runtime")
        .collect();
    assert!(!told.is_empty(), "{log}");
    for line in told {
        let error = line["error"].as_str().expect("an error");
        assert!(error.contains(&words), "{words:?} in {error}");
    }
    // Once it is installed again the service needs no new start.
    symlink(real, &runtime).expect("linked");
    wait_until("it is ready", async || client.is_ready().await).await;
    client.create("env").await;
}
