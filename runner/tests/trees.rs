//! Ending whole trees, leaving others alone, and what is left behind: against the real program.

#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::process::Command;

use common::{
    Runner, code, init_arguments, new_home, processes_with, program, supervisor_of, wait_for,
};
use runner::proto::job_record::Exit;
use runner::proto::{Cause, JobPhase, SignalRequest, StartRequest};
use tonic::Code;

/// A tree that resists: ignored signals, a session of its own, double forks, orphans.
fn resisting(mark: &str) -> String {
    format!(
        "trap '' TERM INT HUP
         setsid sh -c \"trap '' TERM; sh -c 'sleep 300.{mark}' & sh -c 'sleep 300.{mark}'\" &
         (setsid sh -c 'trap \"\" TERM; (sleep 300.{mark} &); sleep 300.{mark}' &)
         nohup sleep 300.{mark} > /dev/null 2>&1 &
         echo up
         sleep 300.{mark}; sleep 300.{mark}"
    )
}

async fn started(runner: &mut Runner, request: StartRequest, mark: &str, processes: usize) {
    runner.client.start(request).await.unwrap();
    let word = format!("300.{mark}");
    wait_for("the tree", || {
        (processes_with(&word).len() >= processes).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_cancelled_tree_is_wholly_gone_and_its_neighbour_untouched() {
    let mut runner = Runner::start().await;
    let neighbour = runner.shell("neighbour", "setsid sleep 300.71 & echo $$; wait");
    started(&mut runner, neighbour, "71", 1).await;
    let request = runner.shell("job", &resisting("70"));
    started(&mut runner, request, "70", 5).await;
    let record = runner.kill("job", 50).await;
    assert_eq!(processes_with("300.70"), [0; 0]);
    assert_eq!(
        (record.phase(), record.cause()),
        (JobPhase::Ended, Cause::Cancelled)
    );
    assert_eq!(record.exit, Some(Exit::Signal(9)));
    assert!(record.tree_confirmed_gone);
    assert_eq!(runner.finish("job").await.record, record);
    assert!(!processes_with("300.71").is_empty());
    assert_eq!(runner.record("neighbour").await.phase(), JobPhase::Running);
    runner.kill("neighbour", 0).await;
}

#[tokio::test]
async fn a_tree_beyond_its_time_is_wholly_gone() {
    let mut runner = Runner::start().await;
    let request = StartRequest {
        timeout_ms: 300,
        grace_ms: 100,
        ..runner.shell("job", &resisting("72"))
    };
    let finished = runner.run(request).await;
    assert_eq!(processes_with("300.72"), [0; 0]);
    assert_eq!(finished.text(), "up\n");
    let record = finished.record;
    assert_eq!(
        (record.cause(), record.tree_confirmed_gone),
        (Cause::TimedOut, true)
    );
    assert!(record.duration_ms >= 300);
}

#[tokio::test]
async fn a_tree_that_obeys_ends_within_its_grace() {
    let mut runner = Runner::start().await;
    let script = "trap 'echo bye; exit 5' TERM; echo up; sleep 300.73 & wait";
    let request = runner.shell("job", script);
    started(&mut runner, request, "73", 1).await;
    // The shell's own command line names the sleep too, and what it forks misses a signal until it has become that.
    let up = || processes_with("sleep\x00300.73").len() == 1;
    wait_for("the sleep", || up().then_some(())).await;
    let record = runner.kill("job", 3_600_000).await;
    assert_eq!(
        (record.cause(), record.exit),
        (Cause::Cancelled, Some(Exit::Code(5)))
    );
    assert!(record.tree_confirmed_gone);
    assert_eq!(runner.finish("job").await.text(), "up\nbye\n");
}

#[tokio::test]
async fn descendants_get_their_grace_after_the_main_process() {
    let mut runner = Runner::start().await;
    // The main process ends at TERM; its child needs a moment to put something down.
    let script =
        "sh -c 'trap \"echo saved > saved; exit\" TERM; echo up; while :; do sleep 0.05; done' &
                  trap 'exit 0' TERM; wait";
    runner
        .client
        .start(runner.shell("job", script))
        .await
        .unwrap();
    let volume = runner.volume();
    let volume = volume.to_str().unwrap();
    wait_for("output", || {
        std::fs::metadata(format!("{volume}/../state/jobs/job.out")).ok()
    })
    .await;
    let record = runner.kill("job", 3_600_000).await;
    assert_eq!(
        (record.exit, record.tree_confirmed_gone),
        (Some(Exit::Code(0)), true)
    );
    assert_eq!(runner.wait_for_file("saved").await, "saved\n");
}

#[tokio::test]
async fn a_fork_bomb_is_wholly_gone() {
    let mut runner = Runner::start().await;
    // Each of them forks until there are some hundred at once, and again when one is killed.
    let script = "bomb() { while :; do [ $(ls -d /proc/[0-9]* | wc -l) -lt 500 ] && (bomb 300.74 &); sleep 0.2; done; }
                  bomb; sleep 300.74";
    runner
        .client
        .start(runner.shell("job", script))
        .await
        .unwrap();
    wait_for("the bomb", || {
        (processes_with("300.74").len() > 150).then_some(())
    })
    .await;
    let record = runner.kill("job", 0).await;
    assert!(record.tree_confirmed_gone);
    assert_eq!(processes_with("300.74"), [0; 0]);
}

#[tokio::test]
async fn a_server_left_behind_lives_on_and_holds_up_nobody() {
    let mut runner = Runner::start().await;
    // It keeps the job's pipes and writes to them after the job has ended.
    let script =
        "(trap '' HUP; sleep 0.6; i=0; while [ $i -lt 20 ]; do echo late || exit; i=$((i+1)); done
                  echo alive > alive; exec sleep 300.75) & echo started";
    let finished = runner.run_shell("job", script).await;
    assert_eq!(
        (finished.text().as_str(), finished.record.exit),
        ("started\n", Some(Exit::Code(0)))
    );
    assert!(!finished.record.tree_confirmed_gone);
    assert_eq!(runner.wait_for_file("alive").await, "alive\n");
    assert_eq!(runner.finish("job").await.record, finished.record);
    let left = processes_with("300.75");
    assert_eq!(left.len(), 1);
    // A cancel that comes late changes nothing.
    assert_eq!(runner.kill("job", 0).await, finished.record);
    assert_eq!(processes_with("300.75"), left);
    // It ends with the environment.
    let (code, _home) = runner.terminate().await;
    assert_eq!(code, Some(0));
    assert_eq!(processes_with("300.75"), [0; 0]);
}

#[tokio::test]
async fn orphans_are_reaped() {
    let mut runner = Runner::start().await;
    let finished = runner
        .run_shell("job", "(sleep 0.3.76 || sleep 0.3 & echo $!) ; exit 0")
        .await;
    let pid = finished.text().trim().to_owned();
    wait_for("the orphan's end", || {
        (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_signal_without_kill_only_delivers() {
    let mut runner = Runner::start().await;
    let script = "trap 'echo usr1' USR1; echo up; while [ ! -e stop ]; do sleep 0.02; done";
    runner
        .client
        .start(runner.shell("job", script))
        .await
        .unwrap();
    let signal = |fence| SignalRequest {
        job_id: "job".to_owned(),
        fence,
        signal: 10,
        kill: false,
        grace_ms: 0,
    };
    let log = runner.state().join("jobs/job.out");
    wait_for("output", || std::fs::read_to_string(&log).ok()).await;
    let record = runner.client.signal(signal(1)).await.unwrap().into_inner();
    assert_eq!(record.phase(), JobPhase::Running);
    wait_for("the answer", || {
        std::fs::read_to_string(&log)
            .ok()
            .filter(|text| text.contains("usr1"))
    })
    .await;
    runner.seal("job", 5).await.unwrap();
    assert_eq!(code(runner.client.signal(signal(4)).await), Code::Aborted);
    let unknown = SignalRequest {
        job_id: "unknown".to_owned(),
        ..signal(1)
    };
    assert_eq!(code(runner.client.signal(unknown).await), Code::NotFound);
    let beyond = SignalRequest {
        signal: 65,
        ..signal(5)
    };
    assert_eq!(
        code(runner.client.signal(beyond).await),
        Code::InvalidArgument
    );
    std::fs::write(runner.volume().join("stop"), "").unwrap();
    let finished = runner.finish("job").await;
    assert_eq!(
        (finished.record.cause(), finished.record.exit),
        (Cause::Exited, Some(Exit::Code(0)))
    );
}

#[tokio::test]
async fn a_job_whose_supervisor_is_killed_says_so() {
    let mut runner = Runner::start().await;
    let request = runner.shell("job", "echo up; sleep 300.77");
    started(&mut runner, request, "77", 1).await;
    let supervisor = supervisor_of(runner.child.id());
    nix::sys::signal::kill(supervisor, nix::sys::signal::Signal::SIGKILL).unwrap();
    let finished = runner.finish("job").await;
    assert_eq!(
        (finished.record.cause(), finished.record.exit),
        (Cause::SupervisorLost, None)
    );
    assert_eq!(finished.text(), "up\n");
    assert_eq!(processes_with("300.77"), [0; 0]);
}

#[tokio::test]
async fn terminating_the_runner_ends_all_jobs_and_keeps_their_records() {
    let mut runner = Runner::start().await;
    let stubborn = runner.shell("stubborn", &resisting("78"));
    started(&mut runner, stubborn, "78", 5).await;
    let attached = tokio::spawn(common::attach(runner.client.clone(), "stubborn", [0, 0]));
    let (exit, home) = runner.terminate().await;
    assert_eq!(exit, Some(0));
    assert_eq!(processes_with("300.78"), [0; 0]);
    let seen = attached.await.unwrap().unwrap().record;
    assert_eq!(
        (seen.cause(), seen.tree_confirmed_gone),
        (Cause::RunnerRestarted, true)
    );
    let mut runner = Runner::start_in(home).await;
    assert_eq!(runner.record("stubborn").await, seen);
}

#[tokio::test]
async fn as_pid_1_of_its_own_namespaces_it_reaps_and_kills() {
    let home = new_home();
    let root = nix::unistd::geteuid().is_root();
    // In a user namespace of one user the commands are that user: 0 inside.
    let user = if root { (1000, 1000) } else { (0, 0) };
    let mut command = Command::new("unshare");
    if !root {
        command.args(["--user", "--map-root-user"]);
    }
    command
        .args(["--pid", "--fork", "--mount-proc", "--kill-child"])
        .arg(program());
    command.args(init_arguments(home.path(), user));
    let mut runner = Runner::start_command(home, &mut command).await;
    let finished = runner
        .run_shell("orphan", "(sleep 0.1 & echo $!); echo $PPID")
        .await;
    let text = finished.text();
    let orphan = text.lines().next().unwrap().to_owned();
    let mut round = 0;
    loop {
        round += 1;
        let look = runner
            .run_shell(
                &format!("look-{round}"),
                &format!("ls -d /proc/{orphan} 2>/dev/null"),
            )
            .await;
        if look.text().is_empty() {
            break;
        }
    }
    let request = runner.shell("tree", &resisting("79"));
    started(&mut runner, request, "79", 5).await;
    assert!(runner.kill("tree", 10).await.tree_confirmed_gone);
    assert_eq!(processes_with("300.79"), [0; 0]);
    // Its memory and descriptors are closed to the commands.
    let spy = "cat /proc/1/environ /proc/1/mem /proc/1/maps 2>/dev/null | wc -c; ls /proc/1/fd 2>/dev/null | wc -l";
    if root {
        assert_eq!(runner.run_shell("spy", spy).await.text(), "0\n0\n");
    }
}
