//! The few system calls that have no safe wrapper. All of the crate's unsafe code is here.
#![allow(
    unsafe_code,
    reason = "each block states why it is sound; nothing else in the crate is unsafe"
)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Takes over a descriptor that the starter of the program left open, and marks it close-on-exec.
///
/// Fails with `EBADF` if it is not open, and for the standard three, which are not the program's to take.
pub(crate) fn adopt_fd(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: F_SETFD reads no memory; on a number that is not open it fails with EBADF.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the number is open (checked above), and it is named on the command line for the program to own: each flag
    // is adopted once, at start, before anything else could have been opened at that number.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Marks every descriptor from 3 up close-on-exec, so that no program started later inherits one.
pub(crate) fn close_all_on_exec() -> io::Result<()> {
    // SAFETY: close_range with CLOSE_RANGE_CLOEXEC only sets flags and reads no memory.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3_u32,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        close_each_on_exec()
    }
}

/// The same for kernels before 5.11 and for sandboxes that do not know the call.
fn close_each_on_exec() -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let number = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<RawFd>().ok());
        if let Some(number) = number.filter(|number| *number > 2) {
            // SAFETY: F_SETFD reads no memory; a number that was closed meanwhile is an error that means nothing here.
            unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}

/// Ignores the signals that writing to a closed pipe or past a file size limit would end the process with.
pub(crate) fn ignore_write_signals() {
    for signal in [libc::SIGPIPE, libc::SIGXFSZ] {
        // SAFETY: SIG_IGN is a valid disposition for both signals and runs no code.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Gives every signal its default disposition and an empty mask: a command starts as from a fresh login.
pub(crate) fn reset_signals() -> io::Result<()> {
    // The kernel's `struct sigaction`, all zero: the default disposition, no flags, an empty mask.
    const DEFAULT: [u64; 4] = [0; 4];
    const SET_BYTES: usize = 8;
    for signal in 1..=64 {
        // Not the libc's function, which hides the two signals that its own `posix_spawn` leaves ignored.
        // SAFETY: the kernel reads one `struct sigaction`, which is at most 32 bytes with a set of 8, and writes
        // nothing through the null pointer. For KILL and STOP the call fails and changes nothing.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                DEFAULT.as_ptr(),
                std::ptr::null_mut::<u64>(),
                SET_BYTES,
            );
        }
    }
    nix::sys::signal::SigSet::empty().thread_set_mask()?;
    Ok(())
}

/// Which side of a fork this is.
pub(crate) enum Forked {
    Parent(nix::unistd::Pid),
    Child,
}

/// Forks. Only the supervisor may call this.
pub(crate) fn fork_single_threaded() -> io::Result<Forked> {
    // SAFETY: the supervisor never starts a thread, so the child has the whole process: no lock can be held by a
    // thread that does not exist in it, and allocating there is sound.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Forked::Parent(child)),
        nix::unistd::ForkResult::Child => Ok(Forked::Child),
    }
}

/// Ends the process at once, without running the exit handlers that belong to the parent of a fork.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit does not return and touches no memory of this process.
    unsafe { libc::_exit(code) }
}

/// Sends a signal to one process. The safe wrappers have no names for real-time signals.
pub(crate) fn send_signal(pid: i32, signal: i32) -> io::Result<()> {
    if pid <= 0 {
        // Such a number would mean a group, or everybody.
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // SAFETY: kill reads no memory; numbers that mean nothing are errors.
    if unsafe { libc::kill(pid, signal) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn descriptors_are_marked_one_by_one_where_they_cannot_be_marked_at_once() {
        let file = std::fs::File::open("/dev/null").unwrap();
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
        close_each_on_exec().unwrap();
        assert!(
            rustix::io::fcntl_getfd(&file)
                .unwrap()
                .contains(rustix::io::FdFlags::CLOEXEC)
        );
        assert!(adopt_fd(2).is_err());
        assert!(adopt_fd(file.as_raw_fd() + 1000).is_err());
    }
}
