//! The peer that people use by hand.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Failure;

/// `kubectl` in a namespace.
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    namespace: String,
}

impl Kubectl {
    /// The one of the cluster's own version, where the cluster has it beside its kubeconfig; else that on the PATH.
    pub fn new(kubeconfig: &Path, namespace: &str) -> Self {
        let own = kubeconfig.with_file_name("kubectl");
        Self {
            program: if own.is_file() { own } else { "kubectl".into() },
            kubeconfig: kubeconfig.to_owned(),
            namespace: namespace.to_owned(),
        }
    }

    /// How long a call takes that must succeed.
    pub fn run(&self, arguments: &[&str]) -> Result<Duration, Failure> {
        self.call(arguments, "")
    }

    /// The same with something on its standard input.
    pub fn call(&self, arguments: &[&str], input: &str) -> Result<Duration, Failure> {
        let began = Instant::now();
        let mut child = Command::new(&self.program)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(["--namespace", &self.namespace])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        child
            .stdin
            .take()
            .ok_or("no pipe")?
            .write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        if output.status.success() {
            Ok(began.elapsed())
        } else {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("kubectl {arguments:?}: {said}").into())
        }
    }
}
