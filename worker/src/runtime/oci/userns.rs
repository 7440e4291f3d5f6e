//! User namespaces for what this service does on behalf of environments, not in them.
//!
//! A namespace is made by a short-lived program, since a process with threads cannot enter one itself, and mapped from
//! outside. The program says a word when it is in, and does nothing before it hears one:
//!
//! ```text
//!   unshare ──▶ sh ── "" ──▶ (uid_map, gid_map) ── "go" ──▶ the program, as the namespace's root
//! ```
//!
//! End of file instead of a word means that this process is gone, and ends it.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

/// What waits for a word and then becomes a program.
const GATE: &str = r#"echo; exec >&2; read -r go || exit 1; exec "$@""#;

/// Ids of the namespace and what they are outside, the same for users and groups.
#[derive(Debug, Clone, Copy)]
pub(super) struct IdMap {
    /// The first id inside.
    pub(super) inside: u32,
    /// The first id outside.
    pub(super) outside: u32,
    /// Number of ids.
    pub(super) count: u32,
}

/// Starts a program in a user namespace (and a network of its own, with nothing in it) as its root. `configure` gives
/// the command its descriptors, folder and standard error.
pub(super) fn spawn(
    map: IdMap,
    program: &[&str],
    configure: impl FnOnce(&mut Command) -> io::Result<()>,
) -> io::Result<Child> {
    let as_root = [
        "setpriv",
        "--reuid=0",
        "--regid=0",
        "--clear-groups",
        "--inh-caps=-all",
        "--ambient-caps=-all",
        "--pdeathsig=KILL",
        "--",
    ];
    let mut command = gated(&[&as_root, program].concat());
    configure(&mut command)?;
    let mut child = command.spawn()?;
    match admit(map, &mut child) {
        Ok(()) => Ok(child),
        Err(error) => {
            child.kill()?;
            child.wait()?;
            Err(error)
        }
    }
}

/// An open user namespace with this mapping and nobody in it.
pub(super) fn open(map: IdMap) -> io::Result<OwnedFd> {
    let mut child = gated(&["true"]).stderr(Stdio::null()).spawn()?;
    let opened = (|| {
        hear(&mut child)?;
        write_maps(map, &child)?;
        fs::File::open(format!("/proc/{}/ns/user", child.id()))
    })();
    child.kill()?;
    child.wait()?;
    Ok(opened?.into())
}

fn gated(program: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command
        .env_clear()
        .args(["--pdeathsig=KILL", "--"])
        .args(["unshare", "--user", "--net", "--keep-caps", "--"])
        .args(["sh", "-c", GATE, "sh"])
        .args(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

fn admit(map: IdMap, child: &mut Child) -> io::Result<()> {
    hear(child)?;
    write_maps(map, child)?;
    child
        .stdin
        .take()
        .ok_or(io::ErrorKind::BrokenPipe)?
        .write_all(b"go\n")
}

/// Waits for the word that the program is in its namespace.
fn hear(child: &mut Child) -> io::Result<()> {
    let mut word = [0];
    let stdout = child.stdout.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
    stdout
        .read_exact(&mut word)
        .map_err(|_| io::Error::other("no user namespace can be made with setpriv and unshare"))
}

fn write_maps(map: IdMap, child: &Child) -> io::Result<()> {
    let line = format!("{} {} {}", map.inside, map.outside, map.count);
    for file in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{}/{file}", child.id()), &line)?;
    }
    Ok(())
}
