//! The supervisor of one job: a child subreaper, so that every process of the job stays below it, however it detaches.
//!
//! It blocks all signals, forks the process that becomes the command and speaks for itself until it is that, reaps
//! whatever ends below, and reports the main process' end and the moment when nothing is left. It decides nothing: PID 1 does.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use rustix::process::WaitOptions;

use super::become_command::become_command;
use super::wire::{Event, RELEASE, Stage, receive_spec};
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
    let Some((spec, fds)) = receive_spec(&control)? else {
        return Ok(());
    };
    match sys::fork_single_threaded() {
        Ok(Forked::Child) => become_command(&spec, fds, &control),
        Ok(Forked::Parent(main)) => {
            drop(fds);
            watch(main, &control, &child_ended)
        }
        Err(error) => {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            report(
                &control,
                Event::Failed {
                    stage: Stage::Setup,
                    errno,
                },
            );
            Ok(())
        }
    }
}

/// Tells PID 1.
pub(super) fn report(mut control: &UnixStream, event: Event) {
    // PID 1 may have let go by now, or died; reading from it tells which.
    let _ = control.write_all(&event.encode());
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
            leave(control);
            return Ok(());
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
fn leave(mut control: &UnixStream) {
    let mut said = [0];
    // An error is a PID 1 that died with something unread.
    if control.read(&mut said).is_err() || said != [RELEASE] {
        let own = Pid::this().as_raw();
        tree::kill_rounds(own, tree::PATIENCE);
    }
}
