//! PID 1 of an environment, from outside.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Kills an environment's PID 1 as its node's kernel does when memory runs out. The node has to be this machine.
pub fn kill_first_process(pod: &Pod) {
    let killed = first_process(&pod.uid().expect("a uid")).map(|pid| kill(pid, Signal::SIGKILL));
    assert_eq!(killed, Some(Ok(())), "the node is this machine");
}

/// The pid, on the node, of a pod's runner.
fn first_process(pod: &str) -> Option<Pid> {
    let pids = std::fs::read_dir("/proc").ok()?.flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_first = |pid: &i32| {
        let read = |what: &str| std::fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
        let groups = String::from_utf8_lossy(&read("cgroup")).replace('_', "-");
        groups.contains(pod) && read("cmdline").starts_with(b"/.em/bin/em-runner\0init\0")
    };
    pids.find(is_first).map(Pid::from_raw)
}
