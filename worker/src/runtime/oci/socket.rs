//! The socket on which PID 1 listens, and the way to it.
//!
//! The host makes it and hands it to PID 1 open, so nothing of it is visible inside and PID 1 can be reached again and
//! again for as long as it lives. Socket paths end at 108 bytes; a data folder's may be longer, so both ends go through
//! the descriptor of the opened folder.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use tokio::net::UnixStream;

use super::files;

/// Its name in the folder of the life.
const NAME: &str = "runner.sock";

/// Makes a new listening socket in place of the one that is there.
pub(super) fn listen(folder: &Path) -> io::Result<OwnedFd> {
    files::absent(fs::remove_file(folder.join(NAME)))?;
    let folder = open(folder)?;
    Ok(UnixListener::bind(below(&folder))?.into())
}

/// Removes it, so that nobody connects to a PID 1 that is gone.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    files::absent(fs::remove_file(folder.join(NAME)))
}

/// A new connection to who listens there.
pub(super) async fn connect(folder: &Path) -> io::Result<UnixStream> {
    let folder = open(folder)?;
    UnixStream::connect(below(&folder)).await
}

fn open(folder: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, folder, flags, Mode::empty())?)
}

fn below(folder: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{NAME}", folder.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_long_path_is_no_hindrance_and_a_dead_listener_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let long = folder.path().join("x".repeat(200));
        fs::create_dir(&long).expect("made");
        let missing = connect(&long).await.expect_err("nobody there");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let listener = listen(&long).expect("listens");
        connect(&long).await.expect("connected");
        drop(listener);
        let refused = connect(&long).await.expect_err("nobody listens");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        listen(&long).expect("listens again");
        remove(&long).expect("removed");
        remove(&long).expect("twice is no error");
    }
}
