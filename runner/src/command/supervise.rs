//! The supervisor of one job: a child subreaper, so that every process of the job stays below it, however it detaches.
//!
//! It blocks all signals, starts the command, reaps whatever ends below it, and reports the main process' end and the
//! moment when nothing is left. It decides nothing: PID 1 does.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use rustix::process::WaitOptions;

use super::become_command::become_command;
use super::wire::{Event, RELEASE, Spec, Stage, receive_spec};
use crate::jobs::tree;
use crate::sys::{self, Forked};

/// Runs one job; the control socket is standard input.
pub(crate) fn run() -> io::Result<()> {
    nix::sys::prctl::set_dumpable(false)?;
    nix::sys::prctl::set_child_subreaper(true)?;
    SigSet::all().thread_set_mask()?;
    let child_ended = SignalFd::with_flags(
        &SigSet::from(Signal::SIGCHLD),
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?;
    let control = UnixStream::from(rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?);
    let (spec, fds) = receive_spec(&control)?;
    match start(&spec, fds)? {
        Ok((main, cgroups)) => {
            report(
                &control,
                Event::Started {
                    pid: main.as_raw(),
                    cgroups,
                },
            );
            watch(main, &control, &child_ended)
        }
        Err((stage, errno)) => {
            report(&control, Event::Failed { stage, errno });
            Ok(())
        }
    }
}

fn report(mut control: &UnixStream, event: Event) {
    // PID 1 may have let go by now, or died; reading from it tells which.
    let _ = control.write_all(&event.encode());
}

/// Why a command did not start.
pub(super) type StartFailure = (Stage, i32);

/// Starts the command; answers its pid and which cgroups it joined, or where that failed.
fn start(spec: &Spec, fds: Vec<OwnedFd>) -> io::Result<Result<(Pid, u8), StartFailure>> {
    let (mut verdict, child_verdict) = io::pipe()?;
    let main = match sys::fork_single_threaded() {
        Ok(Forked::Child) => become_command(spec, fds, child_verdict),
        Ok(Forked::Parent(main)) => main,
        Err(error) => return Ok(Err((Stage::Setup, error.raw_os_error().unwrap_or(0)))),
    };
    drop((fds, child_verdict));
    let mut said = Vec::with_capacity(6);
    verdict.read_to_end(&mut said)?;
    Ok(match *said.as_slice() {
        [_, stage, a, b, c, d] => {
            let stage = Stage::from_number(stage).unwrap_or(Stage::Setup);
            Err((stage, i32::from_le_bytes([a, b, c, d])))
        }
        [cgroups, ..] => Ok((main, cgroups)),
        // It was killed before it got that far; its end follows.
        [] => Ok((main, 0)),
    })
}

/// Reaps and reports until nothing is left or PID 1 lets go.
fn watch(main: Pid, control: &UnixStream, child_ended: &SignalFd) -> io::Result<()> {
    loop {
        // Reaping comes first: children may have ended before the first wait.
        while child_ended.read_signal()?.is_some() {}
        if reap(main, control)? == Left::Nothing {
            report(control, Event::Empty);
            return Ok(());
        }
        let mut wait = [
            PollFd::new(control.as_fd(), PollFlags::POLLIN),
            PollFd::new(child_ended.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut wait, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [from_init, _] = wait;
        if from_init.any() == Some(true) {
            return leave(control);
        }
    }
}

#[derive(PartialEq, Eq)]
enum Left {
    Something,
    Nothing,
}

fn reap(main: Pid, control: &UnixStream) -> io::Result<Left> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get() == main.as_raw() => {
                let event = match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => Event::Exited { code },
                    (None, Some(signal)) => Event::Signalled { signal },
                    (None, None) => continue,
                };
                report(control, event);
            }
            Ok(None) => return Ok(Left::Something),
            Err(rustix::io::Errno::CHILD) => return Ok(Left::Nothing),
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// PID 1 said to go, or died.
fn leave(mut control: &UnixStream) -> io::Result<()> {
    let mut said = [0];
    if control.read(&mut said)? == 0 || said != [RELEASE] {
        let own = Pid::this().as_raw();
        tree::kill_rounds(own, tree::PATIENCE);
    }
    Ok(())
}
