//! The one system call that no safe interface offers: it gives the files of a mount to other users.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;

/// Shows the files of a detached mount as those of the ids that a user namespace maps them to.
#[allow(unsafe_code, reason = "no safe interface knows the call")]
pub(super) fn map_ids(mount: &OwnedFd, users: &OwnedFd) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(users.as_raw_fd()).unwrap_or_default(),
    };
    let path = c"";
    // SAFETY: both descriptors are open, the path ends with NUL, and the structure is as long as it is said to be and
    // outlives the call, which keeps nothing of it.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            path.as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
