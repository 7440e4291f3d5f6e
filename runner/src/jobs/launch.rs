//! Starting supervisors and handing them their jobs.
//!
//! Starting a program takes longer than all else in a start, so one supervisor is always started ahead and waits for
//! its job.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions};

use super::cgroup::{Cgroups, JobCgroups};
use super::job::Job;
use super::tree::Pid;
use crate::command::wire::{self, Spec};

/// Who runs commands in this environment, and where.
pub(crate) struct Launcher {
    /// The environment's user.
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// This process may become other users.
    pub(crate) can_switch: bool,
    pub(crate) volume: PathBuf,
    /// The variables of the image, `NAME=value` each: defaults of every command.
    pub(crate) image_env: Vec<OsString>,
    /// The soft limit of open files that this process was started with.
    pub(crate) open_files: u64,
    pub(crate) cgroups: Cgroups,
    /// The supervisor that waits for the next job.
    pub(crate) spare: Spare,
}

/// A place for one supervisor that waits.
#[derive(Default)]
pub(crate) struct Spare(Mutex<Option<Supervisor>>);

/// A supervisor, by its process and the socket to it.
struct Supervisor {
    pid: Pid,
    control: UnixStream,
}

/// A supervisor that has its spec.
pub(crate) struct Launched {
    pub(crate) supervisor: Pid,
    pub(crate) control: UnixStream,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    pub(crate) cgroups: JobCgroups,
}

impl Launcher {
    /// Hands a job to a supervisor. Blocks until it has it.
    pub(crate) fn launch(&self, job: &Job, spec: &Spec) -> io::Result<Launched> {
        let cgroups = self.cgroups.make(&job.id);
        match self.launch_in(job, spec, &cgroups) {
            Ok((
                supervisor,
                Ends {
                    stdin,
                    stdout,
                    stderr,
                },
            )) => Ok(Launched {
                supervisor: supervisor.pid,
                control: supervisor.control,
                stdin,
                stdout,
                stderr,
                cgroups,
            }),
            Err(error) => {
                self.cgroups.remove(cgroups);
                Err(error)
            }
        }
    }

    fn launch_in(
        &self,
        job: &Job,
        spec: &Spec,
        cgroups: &JobCgroups,
    ) -> io::Result<(Supervisor, Ends)> {
        let (stdout, command_stdout) = io::pipe()?;
        let (stderr, command_stderr) = io::pipe()?;
        let (command_stdin, stdin) = if job.stdin.is_empty() {
            (OwnedFd::from(std::fs::File::open("/dev/null")?), None)
        } else {
            let (command_stdin, stdin) = io::pipe()?;
            (command_stdin.into(), Some(stdin.into()))
        };
        let mut fds = vec![
            command_stdin.as_fd(),
            command_stdout.as_fd(),
            command_stderr.as_fd(),
        ];
        fds.extend(self.cgroups.procs(cgroups));
        let supervisor = self.hand_over(spec, &fds)?;
        supervisor.control.set_nonblocking(true)?;
        let (stdout, stderr) = (stdout.into(), stderr.into());
        Ok((
            supervisor,
            Ends {
                stdin,
                stdout,
                stderr,
            },
        ))
    }

    /// Gives the spec to the supervisor that waits, or, if there is none or it has died, to a new one.
    fn hand_over(&self, spec: &Spec, fds: &[BorrowedFd<'_>]) -> io::Result<Supervisor> {
        let waiting = self.spare.place().take();
        if let Some(supervisor) = waiting
            && wire::send_spec(&supervisor.control, spec, fds).is_ok()
        {
            return Ok(supervisor);
        }
        let supervisor = Supervisor::start()?;
        wire::send_spec(&supervisor.control, spec, fds)?;
        Ok(supervisor)
    }

    /// Starts a supervisor that waits for the next job, if none does. Blocks until it runs.
    pub(crate) fn prepare(&self) {
        let mut place = self.spare.place();
        if place.is_none() {
            // Without one the next job starts its own, and reports what is wrong.
            *place = Supervisor::start().ok();
        }
    }
}

/// This process' ends of a command's pipes.
struct Ends {
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Spare {
    fn place(&self) -> std::sync::MutexGuard<'_, Option<Supervisor>> {
        // Nothing that holds the lock panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Supervisor {
    fn start() -> io::Result<Self> {
        let (control, theirs) = UnixStream::pair()?;
        let pid = spawn_supervisor(&theirs)?;
        Ok(Self { pid, control })
    }
}

/// Starts this program as a supervisor with the socket as its standard input and an empty environment.
fn spawn_supervisor(control: &UnixStream) -> io::Result<Pid> {
    let mut actions = PosixSpawnFileActions::init()?;
    actions.add_dup2(control.as_raw_fd(), 0)?;
    let attributes = PosixSpawnAttr::init()?;
    let no_env: [&std::ffi::CStr; 0] = [];
    let pid = nix::spawn::posix_spawn(
        c"/proc/self/exe",
        &actions,
        &attributes,
        &[c"em-runner", c"supervise"],
        &no_env,
    )?;
    Ok(pid.as_raw())
}
