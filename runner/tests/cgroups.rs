//! Cgroups that the runtime delegates: against the real program and the real kernel. Where this machine lets the tests
//! make no cgroup, the same must hold without one.

#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{
    Runner, init_arguments, new_home, processes_with, program, supervisor_of, user, wait_for,
};
use runner::proto::job_record::Exit;
use runner::proto::{Cause, StartRequest};

/// A cgroup of the tests' own; dropping it removes it with its children.
struct Delegated(PathBuf);

impl Delegated {
    fn new(hierarchies: &[&str], name: &str) -> Option<Self> {
        let parent = hierarchies
            .iter()
            .find(|path| Path::new(path).join("cgroup.procs").exists())?;
        let folder =
            Path::new(parent).join(format!("em-runner-test-{}-{name}", std::process::id()));
        std::fs::create_dir(&folder).ok()?;
        Some(Self(folder))
    }

    fn trees(name: &str) -> Option<Self> {
        Self::new(&["/sys/fs/cgroup/unified", "/sys/fs/cgroup"], name)
    }

    fn children(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap().flatten();
        let folders = entries.filter(|entry| entry.file_type().unwrap().is_dir());
        folders
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect()
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        for child in self.children() {
            let _ = std::fs::remove_dir(self.0.join(child));
        }
        let _ = std::fs::remove_dir(&self.0);
    }
}

async fn start(trees: Option<&Delegated>, memory: Option<&Delegated>) -> Runner {
    let home = new_home();
    let mut script = String::new();
    let mut arguments = init_arguments(home.path(), user());
    for (number, flag, folder) in [(8, "--cgroup-fd", trees), (9, "--memory-cgroup-fd", memory)] {
        if let Some(Delegated(path)) = folder {
            script += &format!("exec {number}<{}; ", path.display());
            arguments.extend([flag.to_owned(), number.to_string()]);
        }
    }
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{script} exec \"$0\" \"$@\""), program()])
        .args(arguments);
    Runner::start_command(home, &mut command).await
}

#[tokio::test]
async fn a_tree_in_a_cgroup_is_killed_whole() {
    let trees = Delegated::trees("kill");
    let mut runner = start(trees.as_ref(), None).await;
    let script = "cat /proc/self/cgroup; ls /proc/self/fd | tr '\\n' ' '; (setsid sh -c 'trap \"\" TERM; sleep 300.61' &)
                  trap '' TERM; sleep 300.61; sleep 300.61";
    runner
        .client
        .start(runner.shell("job", script))
        .await
        .unwrap();
    wait_for("the tree", || {
        (processes_with("sleep\x00300.61").len() == 2).then_some(())
    })
    .await;
    let record = runner.kill("job", 10).await;
    assert_eq!(
        (record.cause(), record.exit),
        (Cause::Cancelled, Some(Exit::Signal(9)))
    );
    assert!(record.tree_confirmed_gone);
    assert_eq!(processes_with("300.61"), [0; 0]);
    let text = runner.finish("job").await.text();
    assert!(text.ends_with("0 1 2 3 "), "{text}");
    if let Some(trees) = &trees {
        assert!(text.contains("/job-job\n"), "{text}");
        wait_for("the cgroup's removal", || {
            trees.children().is_empty().then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn what_is_left_behind_keeps_its_cgroup_until_it_ends() {
    let trees = Delegated::trees("left");
    let mut runner = start(trees.as_ref(), None).await;
    let finished = runner.run_shell("first", "sleep 300.62 & echo $!").await;
    let left = finished.text().trim().to_owned();
    runner.run_shell("second", "true").await;
    if let Some(trees) = &trees {
        wait_for("the second's removal", || {
            (trees.children() == ["job-first"]).then_some(())
        })
        .await;
    }
    runner.run_shell("third", &format!("kill {left}")).await;
    wait_for("its end", || {
        processes_with("300.62").is_empty().then_some(())
    })
    .await;
    runner.run_shell("fourth", "true").await;
    if let Some(trees) = &trees {
        wait_for("the last removal", || {
            trees.children().is_empty().then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_lost_supervisor_takes_even_the_detached_with_it() {
    let trees = Delegated::trees("lost");
    let mut runner = start(trees.as_ref(), None).await;
    let script = "(setsid sh -c '(sleep 300.63 &)' &); sleep 300.63";
    runner
        .client
        .start(runner.shell("job", script))
        .await
        .unwrap();
    wait_for("the tree", || {
        (processes_with("sleep\x00300.63").len() == 2).then_some(())
    })
    .await;
    let supervisor = supervisor_of(runner.child.id());
    nix::sys::signal::kill(supervisor, nix::sys::signal::Signal::SIGKILL).unwrap();
    let record = runner.finish("job").await.record;
    assert_eq!(
        (record.cause(), record.tree_confirmed_gone),
        (Cause::SupervisorLost, trees.is_some())
    );
    if trees.is_some() {
        assert_eq!(processes_with("300.63"), [0; 0]);
    }
}

#[tokio::test]
async fn what_the_kernel_kills_for_memory_is_counted_for_its_job() {
    let memory = Delegated::new(&["/sys/fs/cgroup/memory"], "memory")
        .expect("this test needs root and the v1 memory hierarchy");
    std::fs::write(memory.0.join("memory.limit_in_bytes"), "50331648").unwrap();
    // Where there is swap, the limit of both together counts.
    let _ = std::fs::write(memory.0.join("memory.memsw.limit_in_bytes"), "50331648");
    let mut runner = start(None, Some(&memory)).await;
    runner
        .client
        .start(StartRequest {
            stdin_open: true,
            ..runner.shell("bystander", "cat")
        })
        .await
        .unwrap();
    let hog = runner.run_shell("hog", "tail /dev/zero; echo $?").await;
    assert_eq!((hog.text().as_str(), hog.record.oom_kills), ("137\n", 1));
    assert_eq!(
        (hog.record.cause(), hog.record.exit),
        (Cause::Exited, Some(Exit::Code(0)))
    );
    let fine = runner.run_shell("fine", "exit 137").await;
    assert_eq!(fine.record.oom_kills, 0);
    assert_eq!(runner.kill("bystander", 0).await.oom_kills, 0);
    wait_for("the cgroups' removal", || {
        memory.children().is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn commands_and_their_supervisors_are_in_parts_of_their_own() {
    let whole = Delegated::new(&["/sys/fs/cgroup/pids"], "parts")
        .expect("this test needs root and the v1 hierarchy of processes");
    let [own, commands] = ["init", "commands"].map(|part| whole.0.join(part));
    for part in [&own, &commands] {
        std::fs::create_dir(part).unwrap();
    }
    let home = new_home();
    let mut arguments = init_arguments(home.path(), user());
    arguments.extend(["--own-procs-fd", "8", "--command-procs-fd", "9"].map(str::to_owned));
    let script = format!(
        "exec 8>{}/cgroup.procs 9>{}/cgroup.procs; exec \"$0\" \"$@\"",
        own.display(),
        commands.display()
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script, program()]).args(arguments);
    let mut runner = Runner::start_command(home, &mut command).await;
    let members = |part: &Path| {
        let text = std::fs::read_to_string(part.join("cgroup.procs")).unwrap();
        text.lines().count()
    };
    let text = runner
        .run_shell("job", "grep :pids: /proc/self/cgroup")
        .await
        .text();
    assert!(text.trim().ends_with("/commands"), "{text}");
    let job = runner.shell("held", "exec sleep 300.64");
    runner.client.start(job).await.unwrap();
    wait_for("the command", || (members(&commands) == 1).then_some(())).await;
    // PID 1, this job's supervisor, and the one that waits for the next.
    wait_for("the supervisors", || (members(&own) == 3).then_some(())).await;
    // The fork bomb's case: no process is left for commands, and all the same it is ended and another one starts.
    std::fs::write(commands.join("pids.max"), "1").unwrap();
    let refused = runner.run_shell("refused", "(true); echo reached").await;
    assert!(!refused.text().contains("reached"), "{}", refused.text());
    assert!(runner.kill("held", 0).await.tree_confirmed_gone);
    assert_eq!(runner.run_shell("fine", "echo fine").await.text(), "fine\n");
    drop(runner);
    wait_for("an empty cgroup", || (members(&own) == 0).then_some(())).await;
}
