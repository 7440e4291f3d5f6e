//! The one question about namespaces that has no safe interface.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::libc;

/// The user namespace in which this one was made.
#[allow(unsafe_code, reason = "no safe interface knows the request")]
pub(super) fn parent_of(users: &OwnedFd) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is open, and the request takes no argument and touches no memory of this process.
    let parent = unsafe { libc::ioctl(users.as_raw_fd(), libc::NS_GET_PARENT) };
    if parent < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened it for this call, close-on-exec, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(parent) })
}
