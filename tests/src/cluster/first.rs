//! The runner in a pod, from outside. The node has to be this machine.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Kills an environment's PID 1 as its node's kernel does when memory runs out.
pub fn kill_first_process(pod: &Pod) {
    kill(first_process(pod), Signal::SIGKILL).expect("it runs");
}

/// The pid of an environment's PID 1 on its node.
pub fn first_process(pod: &Pod) -> Pid {
    let found = runners(pod, "init");
    *found.first().expect("it runs, and on this machine")
}

/// The pids of what carries connections to an environment's PID 1.
pub fn connections(pod: &Pod) -> Vec<Pid> {
    runners(pod, "connect")
}

/// The pids, on the node, of a pod's runners with a task.
fn runners(pod: &Pod, task: &str) -> Vec<Pid> {
    let pod = pod.uid().expect("a uid");
    let begin = format!("/.em/bin/em-runner\0{task}");
    let is_one = |pid: &i32| {
        let read = |what: &str| std::fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
        let groups = String::from_utf8_lossy(&read("cgroup")).replace('_', "-");
        groups.contains(&pod) && read("cmdline").starts_with(begin.as_bytes())
    };
    let pids = std::fs::read_dir("/proc").expect("a proc file system");
    let pids = pids.flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(is_one).map(Pid::from_raw).collect()
}
