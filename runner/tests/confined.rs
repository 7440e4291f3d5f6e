//! PID 1 with no more rights than a container gives it: to change users, and to kill.

#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::process::Command;

use common::{Runner, init_arguments, new_home, processes_with, program, wait_for};
use runner::proto::{Cause, ListFilesRequest, StartRequest};

/// A runner that is PID 1 of its own namespace, root with three capabilities.
async fn start() -> Runner {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    let home = new_home();
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child", "setpriv"]);
    command.args([
        "--bounding-set=-all,+setuid,+setgid,+kill",
        "--inh-caps=-all",
    ]);
    command
        .arg(program())
        .args(init_arguments(home.path(), (1000, 1000)));
    Runner::start_command(home, &mut command).await
}

#[tokio::test]
async fn three_capabilities_are_enough() {
    let mut runner = start().await;
    let text = runner
        .run_shell(
            "who",
            "id -u; id -g; grep CapEff /proc/self/status /proc/1/status; echo x > file",
        )
        .await
        .text();
    let expected = "1000\n1000\n/proc/self/status:CapEff:\t0000000000000000\n/proc/1/status:CapEff:\t00000000000000e0\n";
    assert_eq!(text, expected);
    let other = StartRequest {
        user: "nobody".to_owned(),
        ..runner.shell("other", "id -u; cat file; sleep 300.31")
    };
    runner.client.start(other).await.unwrap();
    wait_for("the command", || {
        (!processes_with("sleep\x00300.31").is_empty()).then_some(())
    })
    .await;
    let record = runner.kill("other", 5).await;
    assert_eq!(
        (record.cause(), record.tree_confirmed_gone),
        (Cause::Cancelled, true)
    );
    assert_eq!(runner.finish("other").await.text(), "65534\nx\n");
    // Files are judged by the user's rights: PID 1 has none of its own to pass over them.
    std::fs::create_dir(runner.volume().join("closed")).unwrap();
    common::set_mode(&runner.volume().join("closed"), 0o700);
    let list = |path: &'static str| ListFilesRequest {
        path: path.into(),
        depth: 1,
        limit: 10,
        ..Default::default()
    };
    assert_eq!(
        runner
            .client
            .list_files(list(""))
            .await
            .unwrap()
            .into_inner()
            .entries
            .len(),
        2
    );
    assert!(runner.client.list_files(list("closed")).await.is_err());
}

#[tokio::test]
async fn a_command_cannot_reach_its_runner() {
    let mut runner = start().await;
    // By signals, by its memory and descriptors, by its limits, by its socket, its state, or its supervisor.
    let script = "for pid in 1 $PPID; do
            for signal in STOP TERM KILL; do kill -$signal $pid 2>/dev/null && echo signalled $pid; done
            cat /proc/$pid/environ >/dev/null 2>&1 && echo environ
            cat /proc/$pid/maps 2>/dev/null | grep -q . && echo maps
            ls /proc/$pid/fd >/dev/null 2>&1 && echo fds
            ( : > /proc/$pid/mem ) 2>/dev/null && echo mem
            prlimit --pid $pid --nofile=0 >/dev/null 2>&1 && echo limits
        done
        ls ../state >/dev/null 2>&1 && echo state
        [ -w ../socket ] && echo socket
        echo done";
    assert_eq!(runner.run_shell("attack", script).await.text(), "done\n");
    // It can kill all that it may, which is itself and its like.
    let bystander = StartRequest {
        user: "nobody".to_owned(),
        ..runner.shell("bystander", "sleep 300.32")
    };
    runner.client.start(bystander).await.unwrap();
    wait_for("the bystander", || {
        (!processes_with("sleep\x00300.32").is_empty()).then_some(())
    })
    .await;
    runner.run_shell("everybody", "kill -9 -1").await;
    assert_eq!(
        runner.run_shell("after", "echo alive").await.text(),
        "alive\n"
    );
    assert!(!processes_with("sleep\x00300.32").is_empty());
    runner.kill("bystander", 0).await;
}
