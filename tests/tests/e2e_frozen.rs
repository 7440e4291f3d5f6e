//! A worker that was frozen right before it starts a command, and wakes up when another has taken over.

use nix::sys::signal::{Signal, kill};
use serde_json::json;
use tests::program::{Client, Detached, Program, id_of, is_stopped, wait_until};

/// What a worker tells of a job that it may not start, or not end, any more.
const LEFT: [&str; 2] = [
    "left a job to whoever takes it over",
    "the end of a job is another's to write",
];

/// A service that froze at the start of a job, and the job.
struct Frozen {
    program: Program,
    old: Detached,
    job: String,
}

impl Frozen {
    /// Freezes a service at the start of a command, and lets go of it and of its data folder.
    async fn at_the_start_of(command: &str) -> Self {
        let mut program = Program::start_with(&[("EM_FAILPOINT", "before_start:stop")]).await;
        let old_client = program.client();
        old_client.create("env").await;
        let body = json!({ "command": command, "timeout_seconds": 60 });
        let answer = old_client.post("/v1/environments/env/exec", &body);
        // The answer may or may not come before the whole process stops.
        let job = tokio::select! {
            answer = answer => Some(id_of(&answer.expect(202).json()).to_owned()),
            () = frozen(&program) => None,
        };
        frozen(&program).await;
        let old = program.detach();
        std::fs::remove_file(program.folder().path().join("lock")).expect("the lock file");
        program.set("EM_FAILPOINT", None);
        // First one that takes no job, to look around.
        program.set("EM_WORKER__CONCURRENCY", Some("0"));
        program.restart().await;
        let job = match job {
            Some(job) => job,
            None => only_exec(&program.client()).await,
        };
        Self { program, old, job }
    }

    /// Another worker takes over.
    async fn take_over(&mut self) {
        let status = self.program.term();
        assert!(status.success(), "{status}");
        self.program.set("EM_WORKER__CONCURRENCY", None);
        self.program.restart().await;
    }

    /// Wakes the old process and waits until it has done what it was about to: it asks for the start, and is told that the
    /// job is another's.
    async fn wake(&mut self) {
        let (program, old, job) = (&self.program, &mut self.old, &self.job);
        let before = program.log().len();
        kill(old.pid(), Signal::SIGCONT).expect("it is a child");
        wait_until("the old worker has lost the job", async || {
            assert!(!old.has_ended(), "the old process died instead");
            let log = program.log();
            let mut lines = log[before..].lines();
            lines.any(|line| line.contains(job) && LEFT.iter().any(|left| line.contains(left)))
        })
        .await;
    }

    /// What the command left in the volume, one line for each time it ran.
    async fn runs(&self) -> String {
        let answer = self.program.client().get_file("env", "runs").await;
        match answer.status {
            404 => String::new(),
            _ => answer.expect(200).text(),
        }
    }
}

async fn frozen(program: &Program) {
    let what = "the worker is frozen (the program needs its feature `failpoints` for that)";
    wait_until(what, async || is_stopped(program.pid())).await;
}

async fn only_exec(client: &Client) -> String {
    let jobs = client.get("/v1/jobs?kind=exec").await.expect(200).json();
    let items = jobs["jobs"].as_array().expect("a list");
    assert_eq!(items.len(), 1, "{jobs}");
    id_of(&items[0]).to_owned()
}

#[tokio::test]
async fn a_command_that_another_worker_took_over_runs_once() {
    let mut frozen = Frozen::at_the_start_of("echo ran >> runs; echo done").await;
    frozen.take_over().await;
    let ended = frozen.program.client().ended(&frozen.job).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!(frozen.runs().await, "ran\n");
    frozen.wake().await;
    assert_eq!(frozen.runs().await, "ran\n", "the old worker ran it again");
    assert_eq!(frozen.program.client().job(&frozen.job).await, ended);
}

#[tokio::test]
async fn an_old_worker_that_wakes_in_the_middle_disturbs_nothing() {
    let mut frozen = Frozen::at_the_start_of(
        "echo ran >> runs; until [ -e go ]; do sleep 0.05; done; echo done",
    )
    .await;
    frozen.take_over().await;
    wait_until("it runs", async || !frozen.runs().await.is_empty()).await;
    frozen.wake().await;
    let client = frozen.program.client();
    assert_eq!(client.job(&frozen.job).await["state"], "running");
    client.put_file("env", "go", "").await.expect(200);
    let ended = client.ended(&frozen.job).await;
    assert_eq!(ended["result"]["stdout"], "done\n", "{ended}");
    assert_eq!(frozen.runs().await, "ran\n");
}

#[tokio::test]
async fn a_command_that_was_cancelled_before_its_start_never_starts() {
    let mut frozen = Frozen::at_the_start_of("echo ran >> runs").await;
    let client = frozen.program.client();
    assert_eq!(
        client.job(&frozen.job).await["state"],
        "running",
        "it is leased"
    );
    let answer = client.cancel(&frozen.job).await;
    assert!(matches!(answer.status, 200 | 202), "{}", answer.text());
    frozen.take_over().await;
    let ended = frozen.program.client().ended(&frozen.job).await;
    assert_eq!(ended["state"], "cancelled", "{ended}");
    frozen.wake().await;
    assert_eq!(frozen.runs().await, "", "a cancelled command ran");
    assert_eq!(frozen.program.client().job(&frozen.job).await, ended);
}
