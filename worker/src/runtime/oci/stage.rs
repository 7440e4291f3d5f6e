//! Mounts that only one thread and the programs it starts can see, and that end with them.

use std::io;

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountPropagationFlags, mount_change};

/// Where a tree is mounted for a program that may not pass the data folder: a folder that is on every machine, that
/// everybody may pass, and below which no program, data folder or cgroup can be.
pub(super) const STAGE: &str = "/sys/bus";

/// Gives the calling thread a mount namespace of its own: what it mounts from now on is nobody else's.
pub(super) fn own_mounts() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )?;
    Ok(())
}
