//! `serve` as a process: its lock, its socket, its key, and how signals end it.
//!
//! It runs without a worker (`worker.concurrency` 0), so that no test here starts an environment.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "everything here is a part of tests: what is wrong shall end them"
)]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// How long anything here may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `serve`, killed when it is dropped.
struct Service {
    child: Child,
    log: std::path::PathBuf,
}

/// Starts the program on a data folder.
fn serve(data_dir: &Path, listen: &str, log: Stdio) -> Child {
    Command::new(env!("CARGO_BIN_EXE_environment-manager"))
        .arg("serve")
        .args(["--listen", listen])
        .arg("--data-dir")
        .arg(data_dir)
        .env("EM_WORKER__CONCURRENCY", "0")
        .env("EM_TELEMETRY__LOG", "json")
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("the program starts")
}

impl Service {
    /// Starts one on a data folder; its log goes to a file beside it.
    fn start(data_dir: &Path, listen: &str) -> Self {
        let log = data_dir.with_extension(format!("log{}", listen.replace(['.', ':'], "-")));
        let file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .expect("a log file");
        let child = serve(data_dir, listen, file.into());
        Self { child, log }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("the log")
    }

    /// Waits for the line that says that it is ready; its address.
    fn ready(&mut self) -> String {
        let begun = Instant::now();
        loop {
            let log = self.log();
            if let Some((_, rest)) = log.split_once("\"url\":\"http://") {
                return rest.split('"').next().expect("an address").to_owned();
            }
            let ended = self.child.try_wait().expect("its state");
            assert!(ended.is_none() && begun.elapsed() < PATIENCE, "{log}");
            sleep(Duration::from_millis(10));
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        kill(pid, signal).expect("it is there");
    }

    fn ended(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("its state") {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "{}", self.log());
            sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn folder() -> (TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    (folder, data)
}

/// One request over a connection of its own; the status line of the answer.
fn get(address: &str, path: &str, key: &str) -> String {
    let answer = whole(address, path, key);
    answer.lines().next().expect("a status line").to_owned()
}

/// One request over a connection of its own; the answer with its headers.
fn whole(address: &str, path: &str, key: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: em\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let (_folder, data) = folder();
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .expect("a device");
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|free| free.local_addr())
        .expect("a free port");
    let mut service = Service {
        child: serve(&data, &port.to_string(), full.into()),
        log: data.with_extension("log"),
    };
    let begun = Instant::now();
    while TcpStream::connect(port).is_err() {
        assert_eq!(service.child.try_wait().expect("its state"), None);
        assert!(begun.elapsed() < PATIENCE, "it does not listen");
        sleep(Duration::from_millis(10));
    }
    // Nobody is let in before the key is made; the connection waits.
    assert!(get(&port.to_string(), "/health", "").contains("200"));
    let key = fs::read_to_string(data.join("api-key")).expect("the key");
    assert!(get(&port.to_string(), "/v1/jobs", key.trim()).contains("200"));
    service.signal(Signal::SIGTERM);
    assert!(service.child.wait().expect("its end").success());
}

#[test]
fn the_first_start_makes_a_key_that_opens_and_stays_out_of_the_log() {
    let (_folder, data) = folder();
    let mut service = Service::start(&data, "127.0.0.1:0");
    let address = service.ready();
    let key = fs::read_to_string(data.join("api-key")).expect("the key");
    let key = key.trim();
    assert!(get(&address, "/v1/jobs", key).contains("200"));
    assert!(get(&address, "/v1/jobs", "em_wrong").contains("401"));
    let log = service.log();
    assert!(log.contains("api-key") && !log.contains(key), "{log}");
    for (path, mode) in [
        ("", 0o700),
        ("api-key", 0o600),
        ("environment-manager.db", 0o600),
    ] {
        let metadata = fs::metadata(data.join(path)).expect("it is there");
        assert_eq!(metadata.permissions().mode() & 0o777, mode, "{path}");
    }
}

#[test]
fn the_command_openapi_prints_what_the_service_serves() {
    let (_folder, data) = folder();
    let mut service = Service::start(&data, "127.0.0.1:0");
    let answer = whole(&service.ready(), "/openapi.json", "");
    let (head, served) = answer.split_once("\r\n\r\n").expect("a body");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let printed = Command::new(env!("CARGO_BIN_EXE_environment-manager"))
        .arg("openapi")
        .output()
        .expect("the program starts");
    assert!(printed.status.success(), "{printed:?}");
    let printed = String::from_utf8(printed.stdout).expect("UTF-8");
    let without_space = |text: &str| text.split_whitespace().collect::<String>();
    assert!(printed.contains("\"/v1/environments/{env}/exec\""));
    assert_eq!(without_space(&printed), without_space(served));
}

#[test]
fn the_log_is_text_on_a_terminal_and_json_elsewhere() {
    let start = |data: &Path, stderr: Stdio| {
        Command::new(env!("CARGO_BIN_EXE_environment-manager"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data)
            .env("EM_WORKER__CONCURRENCY", "0")
            .stdin(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("the program starts")
    };
    let first_line = |from: &mut dyn Read| {
        let mut line = Vec::new();
        let mut byte = [0];
        while from.read(&mut byte).expect("a line") == 1 && byte != *b"\n" {
            line.push(byte[0]);
        }
        String::from_utf8(line).expect("UTF-8")
    };
    let (_folder, data) = folder();
    let terminal = nix::pty::openpty(None, None).expect("a terminal");
    let child = start(&data, terminal.slave.into());
    let service = Service {
        child,
        log: data.with_extension("none"),
    };
    let line = first_line(&mut fs::File::from(terminal.master));
    assert!(line.contains("INFO") && !line.starts_with('{'), "{line}");
    drop(service);

    let (_folder, data) = folder();
    let mut child = start(&data, Stdio::piped());
    let mut log = child.stderr.take().expect("a pipe");
    let _service = Service {
        child,
        log: data.with_extension("none"),
    };
    let line = first_line(&mut log);
    assert!(
        line.starts_with('{') && line.contains("\"level\":\"INFO\""),
        "{line}"
    );
}

#[test]
fn one_process_owns_the_data_folder_and_another_is_told_which() {
    let (_folder, data) = folder();
    let mut first = Service::start(&data, "127.0.0.1:0");
    let address = first.ready();
    let mut second = Service::start(&data, "127.0.0.2:0");
    assert_eq!(second.ended().code(), Some(1));
    let owner = format!("in use by process {}", first.child.id());
    assert!(second.log().contains(&owner), "{}", second.log());
    assert!(get(&address, "/health", "").contains("200"));
}

#[test]
fn a_taken_address_is_one_line_with_advice() {
    let (_folder, data) = folder();
    let mut first = Service::start(&data, "127.0.0.1:0");
    let address = first.ready();
    let (_folder, data) = folder();
    let mut second = Service::start(&data, &address);
    assert_eq!(second.ended().code(), Some(1));
    let log = second.log();
    let expected = format!("error: cannot listen on {address}: ");
    assert!(log.contains(&expected) && log.contains("  next: "), "{log}");
    assert!(!data.join("api-key").exists(), "nothing was made");
}

#[test]
fn one_signal_drains_and_the_data_folder_is_free_again() {
    let (_folder, data) = folder();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut service = Service::start(&data, "127.0.0.1:0");
        service.ready();
        service.signal(signal);
        assert_eq!(service.ended().code(), Some(0), "{}", service.log());
        fs::remove_file(&service.log).expect("the log");
    }
}

#[test]
fn a_second_signal_exits_at_once() {
    let (_folder, data) = folder();
    let mut service = Service::start(&data, "127.0.0.1:0");
    let address = service.ready();
    // A request whose body never ends holds up the drain for the whole grace. The server asks for the body once it
    // reads it.
    let key = fs::read_to_string(data.join("api-key")).expect("the key");
    let mut stream = TcpStream::connect(&address).expect("it listens");
    let head = format!(
        "POST /v1/environments HTTP/1.1\r\nHost: em\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n",
        key.trim()
    );
    stream.write_all(head.as_bytes()).expect("sent");
    let mut asked = [0; 12];
    stream.read_exact(&mut asked).expect("an answer");
    assert_eq!(&asked, b"HTTP/1.1 100");
    service.signal(Signal::SIGTERM);
    let begun = Instant::now();
    while !service.log().contains("\"stopping") {
        assert!(begun.elapsed() < PATIENCE, "{}", service.log());
        sleep(Duration::from_millis(10));
    }
    service.signal(Signal::SIGTERM);
    assert_eq!(service.ended().code(), Some(143), "{}", service.log());
}
