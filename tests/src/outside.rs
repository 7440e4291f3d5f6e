//! An internet of the test's own, and a machine of its own that is joined to it.
//!
//! ```text
//!   the test's machine (namespace)                     outside (namespace)
//!   ├─ loopback: a listener                            ├─ addresses of the internet: listeners, a name server
//!   ├─ near: its own public and private addresses ─────┤ blocked ones: listeners on each
//!   └─ default route ──────────────────────────────────┘
//! ```
//!
//! Whatever the test starts is in the first namespace, so nothing of the real machine's network is touched or needed.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sched::{CloneFlags, unshare};

/// Addresses of the internet, as far as the test goes.
pub const PUBLIC: [&str; 3] = ["93.184.0.1", "1.1.1.1", "2a00:1450::1"];
/// The machine's own addresses, two of them such as the internet has.
pub const OWN: [&str; 4] = ["185.199.0.2", "10.77.0.2", "2a00:7777::2", "fd00:7777::2"];
/// One of each kind that may not be reached, all of them outside of the machine.
pub const BLOCKED: [&str; 30] = [
    "0.1.2.3",
    "10.77.0.1",
    "10.255.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.254",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "192.168.255.254",
    "198.18.0.1",
    "198.19.255.254",
    "198.51.100.1",
    "203.0.113.1",
    "168.63.129.16",
    "240.0.0.1",
    "fd00:7777::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fc00::1",
    "64:ff9b::a9fe:a9fe",
    "100::1",
    "2001:db8::1",
    "2001::1",
    "2002:a9fe:a9fe::1",
    "3fff::1",
];
/// Where every address answers `hello`.
pub const PORT: u16 = 8000;
/// The addresses of the outside on the link to the machine.
const LINK: [&str; 4] = [
    "185.199.0.1/24",
    "10.77.0.1/24",
    "2a00:7777::1/64 nodad",
    "fd00:7777::1/64 nodad",
];

/// Answers `hello` on a port of every address, and every name of IPv4 with 93.184.0.1.
const LISTENER: &str = r#"
import socket, socketserver, sys, threading
class Hello(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"hello")
class Server(socketserver.ThreadingTCPServer):
    address_family, allow_reuse_address, daemon_threads = socket.AF_INET6, True, True
    request_queue_size = 64
server = Server(("::", int(sys.argv[1])), Hello)
threading.Thread(target=server.serve_forever, daemon=True).start()
names = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
names.bind(("::", 53))
print("ready", flush=True)
while True:
    question, caller = names.recvfrom(512)
    end = question.index(b"\0", 12) + 5
    known = question[end - 4:end - 2] == b"\0\1"
    answer = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + bytes([93, 184, 0, 1]) if known else b""
    head = question[:2] + b"\x81\x80\0\1" + (b"\0\1" if known else b"\0\0") + b"\0\0\0\0"
    names.sendto(head + question[12:end] + answer, caller)
"#;

/// Tries to reach each of the addresses, all at once; prints which of them answered.
const REACHER: &str = r#"
import concurrent.futures, socket, sys
def reached(address):
    try:
        with socket.create_connection((address, int(sys.argv[1])), timeout=20) as connection:
            return connection.recv(5) == b"hello"
    except OSError:
        return False
addresses = sys.argv[2:]
with concurrent.futures.ThreadPoolExecutor(64) as pool:
    for address, yes in zip(addresses, pool.map(reached, addresses)):
        if yes: print(address)
"#;

/// A program of the test, ended with it.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The internet of the test: its namespace lives as long as its listener.
pub struct Outside {
    pid: u32,
    _listeners: [Running; 2],
}

impl Outside {
    /// Makes the calling thread's network another, joined to an outside. Threads and processes that it makes later are
    /// in it too.
    pub fn of_this_thread() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network of its own");
        ip("link set lo up");
        let outside = listener(&["unshare", "--net"]);
        let pid = outside.0.id();
        ip(&format!(
            "link add near type veth peer name far netns {pid}"
        ));
        for address in OWN {
            let length = if address.contains(':') {
                "64 nodad"
            } else {
                "24"
            };
            ip(&format!("addr add {address}/{length} dev near"));
        }
        ip("link set near up");
        let far = |arguments: &str| run(inside(pid, "ip").args(arguments.split(' ')));
        far("link set lo up");
        for address in LINK {
            far(&format!("addr add {address} dev far"));
        }
        far("link set far up");
        let is_linked = |address: &str| {
            let begin = format!("{address}/");
            LINK.iter().any(|link| link.starts_with(&begin))
        };
        for address in PUBLIC
            .iter()
            .chain(&BLOCKED)
            .filter(|address| !is_linked(address))
        {
            let length = if address.contains(':') {
                "128 nodad"
            } else {
                "32"
            };
            far(&format!("addr add {address}/{length} dev lo"));
        }
        ip("route add default via 185.199.0.1");
        ip("-6 route add default via 2a00:7777::1");
        Self {
            pid,
            _listeners: [outside, listener(&[])],
        }
    }

    /// Serves a folder over HTTP at a port of the internet.
    pub fn serve(&self, folder: &Path, port: u16) -> Running {
        let child = inside(self.pid, "python3")
            .args(["-m", "http.server", "--bind", "93.184.0.1", "--directory"])
            .arg(folder)
            .arg(port.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let running = Running(child.expect("it starts"));
        while std::net::TcpStream::connect(("93.184.0.1", port)).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        running
    }
}

/// Runs a test on a machine of its own.
pub fn on_a_machine_of_its_own(test: impl AsyncFnOnce(&Outside)) {
    let outside = Outside::of_this_thread();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("an executor")
        .block_on(test(&outside));
}

/// A shell script that prints which of the addresses it reaches.
pub fn reaching(addresses: &[&str]) -> String {
    format!(
        "cat > reach.py <<'END'\n{REACHER}\nEND\npython3 reach.py {PORT} {}",
        addresses.join(" ")
    )
}

/// Which of the addresses the machine itself reaches.
pub fn reached_by_the_machine(addresses: &[&str]) -> Vec<String> {
    let output = Command::new("python3")
        .args(["-c", REACHER, &PORT.to_string()])
        .args(addresses)
        .output()
        .expect("it runs");
    let said = String::from_utf8(output.stdout).expect("addresses");
    said.lines().map(str::to_owned).collect()
}

/// Makes `/etc/resolv.conf` name the outside, for the calling thread and what it makes later.
pub fn ask_outside_for_names() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), "nameserver 93.184.0.1\n").expect("written");
    unshare(CloneFlags::CLONE_NEWNS).expect("mounts of its own");
    run(Command::new("mount").args(["--make-rslave", "/"]));
    run(Command::new("mount")
        .arg("--bind")
        .arg(file.path())
        .arg("/etc/resolv.conf"));
}

/// Gives the machine another address.
pub fn add_address(address: &str) {
    ip(&format!("addr add {address}/24 dev near"));
}

/// Living processes whose cgroup has this in its name.
pub fn processes_in(cgroup: &str) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("processes");
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup"));
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            cgroups.is_ok_and(|text| text.contains(cgroup)) && !stat.contains(") Z ")
        })
        .collect()
}

/// Starts the listener, by another program if one is named, and waits until it listens.
fn listener(by: &[&str]) -> Running {
    let port = PORT.to_string();
    let words = [by, &["python3", "-u", "-c", LISTENER, &port]].concat();
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    let stdout = child.stdout.as_mut().expect("its output");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    assert_eq!(line, "ready\n");
    Running(child)
}

fn ip(arguments: &str) {
    run(Command::new("ip").args(arguments.split(' ')));
}

/// A program in the network of a process.
fn inside(pid: u32, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/proc/{pid}/ns/net"))
        .arg(program);
    command
}

fn run(command: &mut Command) {
    let output = command.output().expect("it runs");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
