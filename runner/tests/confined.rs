//! PID 1 with no more rights than a container gives it: to change users, and to kill; or, as in a pod that may nothing,
//! none at all.

#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::PathBuf;
use std::process::{Command, Stdio};

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

/// A runner that was installed as an init container does it, and is PID 1 of its own namespace: an ordinary user, the
/// same as the commands, with no capability.
async fn start_without_rights() -> (Runner, Installed) {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    let home = new_home();
    chown(home.path(), Some(1000), Some(1000)).unwrap();
    let folder = home.path().join("program");
    std::fs::create_dir(&folder).unwrap();
    chown(&folder, Some(1000), Some(1000)).unwrap();
    // Twice: an init container may run again.
    for _ in 0..2 {
        let installed = as_user(program().as_ref())
            .arg("install")
            .arg(&folder)
            .arg(home.path().join("made"))
            .status();
        assert!(installed.unwrap().success());
    }
    let made = std::fs::metadata(home.path().join("made")).unwrap();
    assert_eq!((made.mode() & 0o7777, made.uid()), (0o750, 1000));
    let names = std::fs::read_dir(&folder).unwrap().count();
    assert_eq!(names, 1);
    let installed = folder.join("em-runner");
    assert_eq!(
        std::fs::metadata(&installed).unwrap().mode() & 0o7777,
        0o111
    );
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
    command.arg("setpriv").args(USER).arg(&installed);
    command.args(init_arguments(home.path(), (1000, 1000)));
    let runner = Runner::start_command(home, &mut command).await;
    let init = common::children(runner.child.id().cast_signed())[0];
    (
        runner,
        Installed {
            path: installed,
            init,
        },
    )
}

/// The installed program, and its process, which does not end with the one that started it: a program that cannot be
/// read forgets whose death it shall die.
struct Installed {
    path: PathBuf,
    init: i32,
}

impl Drop for Installed {
    fn drop(&mut self) {
        let init = nix::unistd::Pid::from_raw(self.init);
        let _ = nix::sys::signal::kill(init, nix::sys::signal::Signal::SIGKILL);
    }
}

const USER: [&str; 6] = [
    "--reuid=1000",
    "--regid=1000",
    "--clear-groups",
    "--bounding-set=-all",
    "--inh-caps=-all",
    "--no-new-privs",
];

fn as_user(program: &std::path::Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(USER).arg(program);
    command
}

#[tokio::test]
async fn no_rights_at_all_are_enough() {
    let (mut runner, _installed) = start_without_rights().await;
    let text = runner
        .run_shell(
            "who",
            "id -u; grep CapEff /proc/1/status; echo x > file; cat file",
        )
        .await
        .text();
    assert_eq!(text, "1000\nCapEff:\t0000000000000000\nx\n");
    let file = std::fs::metadata(runner.volume().join("file")).unwrap();
    assert_eq!((file.uid(), file.gid()), (1000, 1000));
    let other = StartRequest {
        user: "nobody".to_owned(),
        ..runner.shell("other", "id")
    };
    assert!(runner.client.start(other).await.is_err());
}

#[tokio::test]
async fn without_rights_a_tree_of_500_is_wholly_gone() {
    let (mut runner, _installed) = start_without_rights().await;
    // Without a cgroup, each in a session of its own, half of them twice forked.
    let script = "for i in $(seq 250); do
            setsid sleep 300.51 & ( setsid sleep 300.51 & ) 
        done; wait";
    runner
        .client
        .start(runner.shell("many", script))
        .await
        .unwrap();
    let neighbour = runner.shell("neighbour", "sleep 300.52");
    runner.client.start(neighbour).await.unwrap();
    wait_for("500 processes", || {
        (processes_with("sleep\x00300.51").len() >= 500).then_some(())
    })
    .await;
    let record = runner.kill("many", 0).await;
    assert!(record.tree_confirmed_gone);
    assert!(processes_with("sleep\x00300.51").is_empty());
    assert!(!processes_with("sleep\x00300.52").is_empty());
}

#[tokio::test]
async fn a_command_of_the_same_user_cannot_read_or_trace_its_runner_or_speak_to_it() {
    let (mut runner, installed) = start_without_rights().await;
    let script = format!(
        "for pid in 1 $PPID; do
            for signal in STOP KILL; do [ $pid = 1 ] && kill -$signal $pid; done
            cat /proc/$pid/environ >/dev/null 2>&1 && echo environ
            cat /proc/$pid/maps 2>/dev/null | grep -q . && echo maps
            ls /proc/$pid/fd >/dev/null 2>&1 && echo fds
            ( : > /proc/$pid/mem ) 2>/dev/null && echo mem
        done
        cat {program} >/dev/null 2>&1 && echo readable
        mkfifo open
        {program} connect ../socket <>open | head -c 9 | wc -c
        ( {program} connect ../socket <>open & wait ) | head -c 9 | wc -c
        echo done",
        program = installed.path.display()
    );
    assert_eq!(
        runner.run_shell("attack", &script).await.text(),
        "0\n0\ndone\n"
    );
    assert_eq!(
        runner.run_shell("after", "echo alive").await.text(),
        "alive\n"
    );
}

#[tokio::test]
async fn whoever_is_put_into_the_namespace_from_outside_is_answered() {
    let (runner, installed) = start_without_rights().await;
    let mut connect = Command::new("nsenter")
        .args(["--pid", "--mount", "--target", &installed.init.to_string()])
        .arg("setpriv")
        .args(USER)
        .arg(&installed.path)
        .arg("connect")
        .arg(runner.home.path().join("socket"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // The runner speaks first: the settings of HTTP/2, which begin with their length.
    let mut first = [0; 9];
    connect
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut first)
        .unwrap();
    assert_eq!((first[0], first[3]), (0, 4), "{first:?}");
    // What is no HTTP/2 ends the connection, and `connect` with it.
    let mut input = connect.stdin.take().unwrap();
    input.write_all(&[b'x'; 64]).unwrap();
    wait_for("the end of connect", || connect.try_wait().unwrap()).await;
}
