//! The socket on which PID 1 listens, and the way to it.
//!
//! The host makes it and hands it to PID 1 open, so nothing of it is visible inside and PID 1 can be reached again and
//! again for as long as it lives. Socket paths end at 108 bytes; a data folder's may be longer, so both ends go through
//! the descriptor of the opened folder.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{self as blocking, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, openat};
use tokio::net::UnixStream;

use super::files;

/// With what a client of HTTP/2 begins, and its settings: none. A server answers with its own.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

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

/// Whether who listens there says anything within `limit` to somebody who speaks HTTP/2. The kernel lets one connect to a
/// process that is stopped or hangs, so a connection alone proves nothing. It blocks for so long.
pub(super) fn answers(folder: &Path, limit: Duration) -> io::Result<bool> {
    let folder = open(folder)?;
    let greeted = (|| {
        let mut stream = blocking::UnixStream::connect(below(&folder))?;
        stream.set_write_timeout(Some(limit))?;
        stream.set_read_timeout(Some(limit))?;
        stream.write_all(GREETING)?;
        stream.read_exact(&mut [0])
    })();
    match greeted {
        Ok(()) => Ok(true),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::WouldBlock
                    | io::ErrorKind::TimedOut
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// The same of many, asked at once: the number of each and whether it says anything, in the order in which that is known.
/// It blocks only as long as its answers are waited for.
pub(super) fn ask_all(
    folders: impl Iterator<Item = PathBuf>,
    limit: Duration,
) -> impl Iterator<Item = (usize, bool)> {
    let (say, said) = mpsc::channel();
    for (number, folder) in folders.enumerate() {
        let says = say.clone();
        let asking = thread::Builder::new()
            .name("ask".to_owned())
            .spawn(move || {
                // Nobody may be waiting for it any more.
                let _ = says.send((number, answers(&folder, limit).unwrap_or(false)));
            });
        if asking.is_err() {
            let _ = say.send((number, false));
        }
    }
    said.into_iter()
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

    #[test]
    fn all_are_asked_at_once() {
        const ALL: usize = 4;
        let folder = tempfile::tempdir().expect("a folder");
        let together = std::sync::Arc::new(std::sync::Barrier::new(ALL));
        let folders: Vec<PathBuf> = (0..=ALL)
            .map(|number| folder.path().join(number.to_string()))
            .collect();
        for folder in &folders {
            fs::create_dir(folder).expect("made");
        }
        for folder in &folders[..ALL] {
            let listener = UnixListener::from(listen(folder).expect("listens"));
            let together = std::sync::Arc::clone(&together);
            thread::spawn(move || {
                let (mut stream, _) = listener.accept().expect("a connection");
                // None answers before all were asked.
                together.wait();
                stream.write_all(b"x").expect("answered");
            });
        }
        let minute = Duration::from_mins(1);
        let mut said: Vec<_> = ask_all(folders.into_iter(), minute).collect();
        said.sort_unstable();
        let expected: Vec<_> = (0..=ALL).map(|number| (number, number < ALL)).collect();
        assert_eq!(said, expected, "nobody listens in the last folder");
    }

    #[tokio::test]
    async fn a_long_path_is_no_hindrance_and_a_dead_listener_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let long = folder.path().join("x".repeat(200));
        fs::create_dir(&long).expect("made");
        let missing = connect(&long).await.expect_err("nobody there");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let moment = Duration::from_millis(10);
        assert!(!answers(&long, moment).expect("asked"), "nobody there");
        let listener = listen(&long).expect("listens");
        connect(&long).await.expect("connected");
        assert!(!answers(&long, moment).expect("asked"), "it says nothing");
        drop(listener);
        assert!(!answers(&long, moment).expect("asked"), "nobody listens");
        let refused = connect(&long).await.expect_err("nobody listens");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        listen(&long).expect("listens again");
        remove(&long).expect("removed");
        remove(&long).expect("twice is no error");
    }
}
