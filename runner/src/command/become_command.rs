//! The last steps of a forked process before it is the command.
//!
//! Order matters: cgroups and signals while the process still has PID 1's rights, then the user, then the loss of
//! every capability, and only then the working directory and the program, which are looked up with the user's rights.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{self, Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::supervise::report;
use super::wire::{Event, Spec, Stage};
use crate::sys;

/// Added to the badness of commands, so that the kernel, when memory runs out, ends them before PID 1.
const OOM_SCORE: &[u8] = b"500";

/// Why a command did not start.
type StartFailure = (Stage, i32);

/// Becomes the command, or reports why not and ends. PID 1 knows of the process before there is a command.
pub(super) fn become_command(spec: &Spec, fds: Vec<OwnedFd>, control: &UnixStream) -> ! {
    let Err((stage, errno)) = try_become(spec, fds, control);
    report(control, Event::Failed { stage, errno });
    sys::exit_now(127)
}

fn try_become(
    spec: &Spec,
    fds: Vec<OwnedFd>,
    control: &UnixStream,
) -> Result<std::convert::Infallible, StartFailure> {
    let mut fds = fds.into_iter();
    let (Some(stdin), Some(stdout), Some(stderr)) = (fds.next(), fds.next(), fds.next()) else {
        return Err((Stage::Setup, libc::EBADF));
    };
    let cgroups = join_cgroups(fds);
    let pid = unistd::getpid().as_raw();
    report(control, Event::Started { pid, cgroups });
    unistd::setsid().map_err(at_errno(Stage::Setup))?;
    // Best effort: without it the kernel only chooses less well.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    unistd::dup2_stdin(stdin).map_err(at_errno(Stage::Setup))?;
    unistd::dup2_stdout(stdout).map_err(at_errno(Stage::Setup))?;
    unistd::dup2_stderr(stderr).map_err(at_errno(Stage::Setup))?;
    sys::close_all_on_exec().map_err(at(Stage::Setup))?;
    restore_open_files(spec.open_files);
    become_user(spec).map_err(at(Stage::User))?;
    drop_capabilities().map_err(at(Stage::Setup))?;
    sys::reset_signals().map_err(at(Stage::Setup))?;
    unistd::chdir(spec.workdir.as_slice()).map_err(at_errno(Stage::Workdir))?;
    Err(execute(spec))
}

fn at(stage: Stage) -> impl Fn(io::Error) -> StartFailure {
    move |error| (stage, error.raw_os_error().unwrap_or(libc::EIO))
}

fn at_errno(stage: Stage) -> impl Fn(Errno) -> StartFailure {
    move |errno| (stage, errno as i32)
}

/// Moves this process into the cgroups; bit N of the answer says that it is in the Nth.
fn join_cgroups(procs: impl Iterator<Item = OwnedFd>) -> u8 {
    let joined = procs.map(|file| rustix::io::write(file, b"0").is_ok());
    joined.enumerate().fold(0, |bits, (index, joined)| {
        bits | (u8::from(joined) << index)
    })
}

fn restore_open_files(soft: u64) {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Lowering the soft limit is always allowed, so this does not fail.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, soft.min(hard), hard);
    }
}

/// Takes the user's ids. Where this process has them already nothing is asked of the kernel, which might refuse.
fn become_user(spec: &Spec) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(spec.uid), Gid::from_raw(spec.gid));
    if let Err(error) = unistd::setgroups(&[]) {
        // A user namespace may forbid this call; then the groups are those of the runtime's choice. A process that may
        // change its user must also shed its groups.
        if uid != Uid::effective() {
            return Err(error.into());
        }
    }
    if unistd::getresgid()?
        != (unistd::ResGid {
            real: gid,
            effective: gid,
            saved: gid,
        })
    {
        unistd::setresgid(gid, gid, gid)?;
    }
    if unistd::getresuid()?
        != (unistd::ResUid {
            real: uid,
            effective: uid,
            saved: uid,
        })
    {
        drop_bounding_set();
        unistd::setresuid(uid, uid, uid)?;
    } else {
        drop_bounding_set();
    }
    Ok(())
}

/// Empties the bounding set as far as the kernel lets this process. What stays is out of reach all the same: without
/// new privileges no program gains more than the permitted set, which is empty.
fn drop_bounding_set() {
    for bit in 0..64 {
        if rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(
            1 << bit,
        ))
        .is_err()
        {
            return;
        }
    }
}

fn drop_capabilities() -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    // Kernels before 4.3 have no ambient set to clear.
    let _ = rustix::thread::clear_ambient_capability_set();
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        },
    )?;
    Ok(())
}

/// Executes the program; answers why that was not possible.
fn execute(spec: &Spec) -> StartFailure {
    let strings = |strings: &[Vec<u8>]| {
        strings
            .iter()
            .map(|string| CString::new(string.as_slice()))
            .collect()
    };
    let (Ok(argv), Ok(env)): (Result<Vec<CString>, _>, Result<Vec<CString>, _>) =
        (strings(&spec.argv), strings(&spec.env))
    else {
        return (Stage::Setup, libc::EINVAL);
    };
    let Ok(program) = CString::new(spec.program.as_slice()) else {
        return (Stage::Setup, libc::EINVAL);
    };
    if program.as_bytes().contains(&b'/') {
        return execute_at(&program, &argv, &env);
    }
    let path = spec
        .env
        .iter()
        .find_map(|entry| entry.strip_prefix(b"PATH="))
        .unwrap_or_default();
    let mut denied = None;
    for folder in path.split(|byte| *byte == b':') {
        // An empty entry is the working directory, as everywhere.
        let folder = if folder.is_empty() { b"." } else { folder };
        let Ok(candidate) = CString::new([folder, b"/", program.as_bytes()].concat()) else {
            continue;
        };
        match execute_at(&candidate, &argv, &env) {
            (Stage::Find, _) => {}
            (Stage::Execute, libc::EACCES) => denied = Some((Stage::Execute, libc::EACCES)),
            failure => return failure,
        }
    }
    denied.unwrap_or((Stage::Find, libc::ENOENT))
}

fn execute_at(program: &CStr, argv: &[CString], env: &[CString]) -> StartFailure {
    let Err(errno) = unistd::execve(program, argv, env);
    match errno {
        // The file is there, so what is missing is what it names: its interpreter or its loader.
        Errno::ENOENT if exists(program) => (Stage::Interpreter, errno as i32),
        Errno::ENOENT | Errno::ENOTDIR | Errno::ENAMETOOLONG | Errno::ELOOP => {
            (Stage::Find, errno as i32)
        }
        _ => (Stage::Execute, errno as i32),
    }
}

fn exists(program: &CStr) -> bool {
    std::path::Path::new(std::ffi::OsStr::from_bytes(program.to_bytes())).exists()
}
