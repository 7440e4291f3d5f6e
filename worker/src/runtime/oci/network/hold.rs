//! How the pipe that ends a helper with its PID 1 is found again: to see whether the helper still watches it, and to give
//! it to another one.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use serde::{Deserialize, Serialize};

use super::super::files;

/// Which pipe PID 1 holds. Under which number nobody needs to know, and gVisor tells nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Hold {
    device: u64,
    inode: u64,
}

impl Hold {
    /// That of this descriptor, which PID 1 gets.
    pub(in super::super) fn of(held: &OwnedFd) -> io::Result<Self> {
        let found = fstat(held)?;
        Ok(Self {
            device: found.st_dev,
            inode: found.st_ino,
        })
    }

    /// The device and inode of the pipe.
    pub(in super::super) fn file(self) -> (u64, u64) {
        (self.device, self.inode)
    }

    pub(in super::super) fn write(self, path: &Path) -> io::Result<()> {
        files::write_whole(path, &serde_json::to_vec(&self)?, 0o600)
    }

    /// What was written; nothing where there is no helper.
    pub(in super::super) fn read(path: &Path) -> io::Result<Option<Self>> {
        match fs::read(path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The end that a new helper watches, where nobody watches it any more. `found` is what PID 1 holds, opened without
    /// touching it: it may have been taken over.
    pub(super) fn unwatched(self, found: &OwnedFd) -> io::Result<Option<OwnedFd>> {
        let stat = fstat(found)?;
        let is_pipe = FileType::from_raw_mode(stat.st_mode) == FileType::Fifo;
        if !is_pipe || (stat.st_dev, stat.st_ino) != (self.device, self.inode) {
            return Ok(None);
        }
        let open = |flags| {
            let path = format!("/proc/self/fd/{}", found.as_raw_fd());
            let flags = flags | OFlags::NONBLOCK | OFlags::CLOEXEC;
            openat(CWD, path, flags, Mode::empty())
        };
        let writing = open(OFlags::WRONLY)?;
        let mut looked = [PollFd::new(&writing, PollFlags::OUT)];
        poll(&mut looked, Some(&Timespec::default()))?;
        // So the kernel says that a pipe has no reader.
        if !looked[0].revents().contains(PollFlags::ERR) {
            return Ok(None);
        }
        Ok(Some(open(OFlags::RDONLY)?))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    /// Opens a file of this process without touching it.
    fn untouched(file: &impl AsRawFd) -> OwnedFd {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).expect("opened")
    }

    #[test]
    fn a_pipe_is_watched_while_it_has_a_reader_and_no_other_file_is_taken_for_it() {
        let (watching, held) = io::pipe().expect("a pipe");
        let held = OwnedFd::from(held);
        let hold = Hold::of(&held).expect("looked at");
        assert!(hold.unwatched(&untouched(&held)).expect("looked").is_none());
        drop(watching);
        let again = hold.unwatched(&untouched(&held)).expect("looked");
        assert!(again.is_some());
        assert!(hold.unwatched(&untouched(&held)).expect("looked").is_none());
        drop(again);
        let (_, other) = io::pipe().expect("a pipe");
        let file = File::open("/dev/null").expect("opened");
        for strange in [untouched(&other), untouched(&file)] {
            assert!(hold.unwatched(&strange).expect("looked").is_none());
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("hold");
        assert_eq!(Hold::read(&path).expect("none"), None);
        hold.write(&path).expect("written");
        assert_eq!(Hold::read(&path).expect("read"), Some(hold));
    }
}
