//! Workers that are killed, and those that come after them.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use shared::ports::Sight;
use shared::resources::{ByteSize, Cpu, Resources};
use tests::conformance::runtime::given::{Lodging, until};
use tests::program::beside;

use crate::bench::Bench;

/// The limits of what a holder holds.
pub(crate) const HELD: Resources = Resources {
    cpu: Cpu { millis: 1000 },
    memory: ByteSize(256 << 20),
    storage: ByteSize(1 << 30),
    pids: 128,
};

/// Another process that does something to an environment, once or again and again.
pub(crate) struct Holder {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Drop for Holder {
    /// One that was not killed, since a test failed before, must not go on for ever.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Holder {
    pub(crate) fn spawn(bench: &Bench, lodging: &Lodging, what: &str) -> Self {
        Self::spawn_with(bench, lodging, what, &[])
    }

    /// One with these variables.
    pub(crate) fn spawn_with(
        bench: &Bench,
        lodging: &Lodging,
        what: &str,
        variables: &[(&str, &str)],
    ) -> Self {
        let mut child = Command::new(beside("runtime_holder"))
            .envs(variables.iter().copied())
            .arg(bench.folder())
            .arg(bench.instance.as_str())
            .arg(lodging.uid().as_str())
            .arg(what)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, stdout }
    }

    /// Waits for the next line that it says.
    pub(crate) fn says(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("readable");
        line.trim().to_owned()
    }

    /// Waits until it stopped itself at the place that its variables say.
    pub(crate) fn stopped(&self) {
        let status = waitpid(self.pid(), Some(WaitPidFlag::WUNTRACED)).expect("its child");
        assert!(matches!(status, WaitStatus::Stopped(..)), "{status:?}");
    }

    /// Lets it go on.
    pub(crate) fn go_on(&self) {
        kill(self.pid(), Signal::SIGCONT).expect("it is there");
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().expect("a pid"))
    }

    /// Waits until it was killed at the place that its variables say.
    pub(crate) async fn killed(mut self) {
        let mut ended = None;
        until(async || {
            ended = self.child.try_wait().expect("a child");
            ended.is_some()
        })
        .await;
        let status = ended.expect("it has ended");
        assert_eq!(status.signal(), Some(9), "{status}");
    }

    /// Kills it; returns when nobody holds its standard output any more.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("gone");
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).expect("it ends");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_outlives_its_worker_and_is_adopted() {
    let bench = Bench::new();
    let lodging = bench.given().life();
    let mut holder = Holder::spawn(&bench, &lodging, "create");
    assert_eq!(holder.says(), "created");
    let mut session = lodging.session().await;
    let job = session
        .begin("echo begun; while ! test -e done; do sleep 0.05; done; echo through")
        .await;
    holder.kill();
    let next = Lodging {
        runtime: Arc::new(bench.open()),
        placement: lodging.placement.clone(),
    };
    assert_eq!(
        next.runtime.inspect(next.uid()).await.expect("seen"),
        Sight::Alive
    );
    let held = next.runtime.list().await.expect("a list");
    assert!(held.len() == 1 && held[0].alive, "{held:?}");
    next.create().await;
    let mut again = next.session().await;
    assert_eq!(again.incarnation, session.incarnation);
    again.run("touch done").await.text();
    assert_eq!(again.outcome(&job).await.text(), "begun\nthrough");
    next.delete().await;
    bench.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pid_1_that_was_asked_to_end_is_not_kept() {
    let bench = Bench::new();
    let given = bench.given();
    let lodging = given.environment().await;
    let mut session = lodging.session().await;
    session.run("echo kept > file; sync").await.text();
    // The worker that stopped it was killed right after it had asked.
    std::fs::write(bench.home(lodging.uid()).join("bundle/ending"), "").expect("written");
    let pid = nix::unistd::Pid::from_raw(bench.pid(lodging.uid()));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("asked");
    lodging.create().await;
    assert_ne!(lodging.session().await.incarnation, session.incarnation);
    assert_eq!(lodging.run("cat file").await.text(), "kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_may_be_killed_at_any_moment() {
    let bench = Bench::new();
    for moment in 0..24_u64 {
        let lodging = bench.given().life();
        let mut holder = Holder::spawn(&bench, &lodging, "cycle");
        assert_eq!(holder.says(), "ready");
        std::thread::sleep(Duration::from_millis(moment * 7));
        holder.kill();
        // Whatever it left, who comes next gets what he asks for.
        match moment % 3 {
            0 => {
                lodging.create().await;
                assert_eq!(lodging.run("echo whole").await.text(), "whole");
                lodging.stop().await;
                lodging.start().await;
                assert_eq!(lodging.run("echo whole").await.text(), "whole");
            }
            1 => {
                lodging
                    .runtime
                    .kill(lodging.uid(), None)
                    .await
                    .expect("killed");
                lodging.create().await;
                assert_eq!(lodging.run("id -u").await.text(), "1000");
            }
            _ => {}
        }
        lodging.delete().await;
        bench.assert_nothing_left();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_share_a_folder() {
    let bench = Bench::new();
    let mut holders = Vec::new();
    let lodging = bench.given().life();
    for _ in 0..2 {
        let mut holder = Holder::spawn(&bench, &lodging, "cycle");
        assert_eq!(holder.says(), "ready");
        holders.push(holder);
    }
    // Each says so after every round of create, stop, start and delete that went well.
    for holder in &mut holders {
        for _ in 0..3 {
            assert_eq!(holder.says(), "round");
        }
    }
    for holder in holders {
        holder.kill();
    }
    lodging.delete().await;
    bench.assert_nothing_left();
}
