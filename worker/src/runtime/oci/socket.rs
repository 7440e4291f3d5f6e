//! The socket on which PID 1 listens, and the way to it.
//!
//! The host makes it and hands it to PID 1 open, so nothing of it is visible inside and PID 1 can be reached again and
//! again for as long as it lives. Socket paths end at 108 bytes; a data folder's may be longer, so both ends go through
//! an opened descriptor.
//!
//! In an environment with a kernel of its own descriptors of the machine mean nothing. There PID 1 makes the socket, in the
//! folder of its records, where no command comes in. What lies there is whatever PID 1 wants: it is opened without
//! following a link, and spoken to only if it is a socket.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{self as blocking, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use tokio::net::UnixStream;

use super::files;

/// With what a client of HTTP/2 begins, and its settings: none. A server answers with its own.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Its name in either folder.
pub(super) const NAME: &str = "runner.sock";

/// The folders in which the socket of a PID 1 may be.
#[derive(Debug, Clone)]
pub(super) struct Sockets {
    /// Where the host makes it.
    pub(super) given: PathBuf,
    /// Where PID 1 makes it, if it is not given one.
    pub(super) own: PathBuf,
}

/// Makes a new listening socket in place of the one that is there.
pub(super) fn listen(folder: &Path) -> io::Result<OwnedFd> {
    files::absent(fs::remove_file(folder.join(NAME)))?;
    let folder = open(folder)?;
    let path = format!("/proc/self/fd/{}/{NAME}", folder.as_raw_fd());
    Ok(UnixListener::bind(path)?.into())
}

impl Sockets {
    /// Removes it, so that nobody connects to a PID 1 that is gone.
    pub(super) fn remove(&self) -> io::Result<()> {
        for folder in [&self.given, &self.own] {
            files::absent(fs::remove_file(folder.join(NAME)))?;
        }
        Ok(())
    }

    /// A new connection to who listens there.
    pub(super) async fn connect(&self) -> io::Result<UnixStream> {
        let socket = self.find()?;
        UnixStream::connect(opened(&socket)).await
    }

    fn find(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for folder in [&self.given, &self.own] {
            let found = open(folder).and_then(|folder| {
                let found = openat(folder, NAME, flags, Mode::empty())?;
                let kind = FileType::from_raw_mode(fstat(&found)?.st_mode);
                Ok((kind == FileType::Socket).then_some(found))
            });
            match found {
                Ok(Some(socket)) => return Ok(socket),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Whether who listens there says anything within `limit` to somebody who speaks HTTP/2. The kernel lets one connect to a
/// process that is stopped or hangs, so a connection alone proves nothing. It blocks for so long.
pub(super) fn answers(sockets: &Sockets, limit: Duration) -> io::Result<bool> {
    let greeted = (|| {
        let mut stream = blocking::UnixStream::connect(opened(&sockets.find()?))?;
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
    all: impl Iterator<Item = Sockets>,
    limit: Duration,
) -> impl Iterator<Item = (usize, bool)> {
    let (say, said) = mpsc::channel();
    for (number, sockets) in all.enumerate() {
        let says = say.clone();
        let asking = thread::Builder::new()
            .name("ask".to_owned())
            .spawn(move || {
                // Nobody may be waiting for it any more.
                let _ = says.send((number, answers(&sockets, limit).unwrap_or(false)));
            });
        if asking.is_err() {
            let _ = say.send((number, false));
        }
    }
    said.into_iter()
}

fn open(folder: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(CWD, folder, flags, Mode::empty())?)
}

/// What an open descriptor stands for, in few bytes.
fn opened(file: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sockets(folder: &Path) -> Sockets {
        let own = folder.join("own");
        fs::create_dir_all(&own).expect("made");
        let given = folder.to_owned();
        Sockets { given, own }
    }

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
        let mut said: Vec<_> =
            ask_all(folders.iter().map(|folder| sockets(folder)), minute).collect();
        said.sort_unstable();
        let expected: Vec<_> = (0..=ALL).map(|number| (number, number < ALL)).collect();
        assert_eq!(said, expected, "nobody listens in the last folder");
    }

    #[tokio::test]
    async fn a_long_path_is_no_hindrance_and_a_dead_listener_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let long = folder.path().join("x".repeat(200));
        fs::create_dir(&long).expect("made");
        let sockets = sockets(&long);
        let missing = sockets.connect().await.expect_err("nobody there");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let moment = Duration::from_millis(10);
        assert!(!answers(&sockets, moment).expect("asked"), "nobody there");
        let listener = listen(&long).expect("listens");
        sockets.connect().await.expect("connected");
        assert!(
            !answers(&sockets, moment).expect("asked"),
            "it says nothing"
        );
        drop(listener);
        assert!(!answers(&sockets, moment).expect("asked"), "nobody listens");
        let refused = sockets.connect().await.expect_err("nobody listens");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        listen(&long).expect("listens again");
        sockets.remove().expect("removed");
        sockets.remove().expect("twice is no error");
    }

    #[tokio::test]
    async fn a_pid_1_may_make_it_itself_but_leads_nobody_elsewhere() {
        let folder = tempfile::tempdir().expect("a folder");
        let sockets = sockets(folder.path());
        let _listener = listen(&sockets.own).expect("listens");
        sockets.connect().await.expect("connected");
        sockets.remove().expect("removed");
        let other = sockets.own.join("other.sock");
        let _other = UnixListener::bind(&other).expect("listens");
        std::os::unix::fs::symlink(&other, sockets.own.join(NAME)).expect("linked");
        let astray = sockets.connect().await.expect_err("no link is followed");
        assert_eq!(astray.kind(), io::ErrorKind::NotFound);
        sockets.remove().expect("removed");
        fs::write(sockets.own.join(NAME), "a file").expect("written");
        let astray = sockets.connect().await.expect_err("a file is no socket");
        assert_eq!(astray.kind(), io::ErrorKind::NotFound);
    }
}
