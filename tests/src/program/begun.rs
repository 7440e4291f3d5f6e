//! A service that a command of a test's own making ends with.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::Client;

/// The service, with all that its command started. It goes with this.
pub struct Begun {
    child: Child,
    url: String,
}

impl Begun {
    /// Runs a command up to the line that says that the service is ready; it has its data in a folder of the caller's, and
    /// listens where there is room.
    pub fn by(command: &mut Command, data: &Path) -> Self {
        let mut child = command
            .env("HOME", data)
            .env("EM_DATA_DIR", data)
            .env("EM_SERVER__LISTEN", "127.0.0.1:0")
            .process_group(0)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let log = BufReader::new(child.stderr.take().expect("piped"));
        let mut lines = log.lines().map_while(Result::ok);
        let mut said = Vec::new();
        let url = lines.find_map(|line| {
            let ready = serde_json::from_str::<Value>(&line).ok();
            let ready = ready.filter(|line| line["message"] == "ready");
            said.push(line);
            Some(ready?["url"].as_str()?.to_owned())
        });
        let url = url.unwrap_or_else(|| panic!("it is never ready: {said:#?}"));
        // It goes on to write, and somebody has to read that.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, url }
    }

    /// A caller with the key in its data.
    pub fn client(&self, data: &Path) -> Client {
        let key = std::fs::read_to_string(data.join("api-key")).expect("a key file");
        Client::new(self.url.clone(), key.trim().to_owned())
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let _ = kill(
            Pid::from_raw(-self.child.id().cast_signed()),
            Signal::SIGTERM,
        );
        let _ = self.child.wait();
    }
}
