//! What PID 1 and a supervisor say to each other over the control socket.
//!
//! ```text
//! PID 1      ──▶ supervisor   length (4 bytes, little endian) with the descriptors attached, then the spec
//! command    ──▶ PID 1        events of 8 bytes: started, and failed if it cannot execute
//! supervisor ──▶ PID 1        exited or signalled, then empty
//! PID 1      ──▶ supervisor   RELEASE: leave what is left of the tree alive and go. End of file without it: PID 1
//!                             died, so kill the tree and go
//! ```
//! The descriptors are the command's standard three, then one open `cgroup.procs` for each cgroup it is to join.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use prost::Message;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// The one byte that releases a supervisor.
pub(crate) const RELEASE: u8 = b'r';

/// The most descriptors that come with a spec: the standard three and as many cgroups as [`Event::Started`] has bits.
const MAX_FDS: usize = 3 + 8;

/// What a command is to be.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Spec {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(crate) argv: Vec<Vec<u8>>,
    /// `NAME=value` each, complete.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub(crate) env: Vec<Vec<u8>>,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) workdir: Vec<u8>,
    #[prost(uint32, tag = "4")]
    pub(crate) uid: u32,
    #[prost(uint32, tag = "5")]
    pub(crate) gid: u32,
    /// The soft limit of open files that PID 1 was started with; PID 1 raises its own.
    #[prost(uint64, tag = "6")]
    pub(crate) open_files: u64,
    /// What to execute: a path, or a name to look up in PATH.
    #[prost(bytes = "vec", tag = "7")]
    pub(crate) program: Vec<u8>,
}

/// Where the start of a command failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stage {
    /// Making the process: fork, session, descriptors, privileges.
    Setup = 1,
    /// Becoming the user.
    User = 2,
    /// Entering the working directory.
    Workdir = 3,
    /// Finding the program.
    Find = 4,
    /// Executing the program that was found.
    Execute = 5,
    /// The interpreter that the program names does not exist.
    Interpreter = 6,
}

/// What a supervisor, and the process that is about to be the command, tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The process exists, and will be the command unless it fails. `cgroups` has bit N set if it joined the Nth cgroup it was given.
    Started { pid: i32, cgroups: u8 },
    /// Nothing ran.
    Failed { stage: Stage, errno: i32 },
    /// The main process ended by itself with a code.
    Exited { code: i32 },
    /// The main process was ended by a signal.
    Signalled { signal: i32 },
    /// Nothing of the tree is left. The last event.
    Empty,
}

impl Stage {
    /// The stage with this number.
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        [
            Self::Setup,
            Self::User,
            Self::Workdir,
            Self::Find,
            Self::Execute,
            Self::Interpreter,
        ]
        .into_iter()
        .find(|stage| *stage as u8 == number)
    }
}

impl Event {
    /// Bytes of one event.
    pub(crate) const LENGTH: usize = 8;

    pub(crate) fn encode(self) -> [u8; Self::LENGTH] {
        let (tag, detail, value) = match self {
            Self::Started { pid, cgroups } => (1, cgroups, pid),
            Self::Failed { stage, errno } => (2, stage as u8, errno),
            Self::Exited { code } => (3, 0, code),
            Self::Signalled { signal } => (4, 0, signal),
            Self::Empty => (5, 0, 0),
        };
        let [a, b, c, d] = value.to_le_bytes();
        [tag, detail, 0, 0, a, b, c, d]
    }

    /// The event in these bytes, or `None` if they are none.
    pub(crate) fn decode(bytes: [u8; Self::LENGTH]) -> Option<Self> {
        let [tag, detail, _, _, a, b, c, d] = bytes;
        let value = i32::from_le_bytes([a, b, c, d]);
        Some(match tag {
            1 => Self::Started {
                pid: value,
                cgroups: detail,
            },
            2 => Self::Failed {
                stage: Stage::from_number(detail)?,
                errno: value,
            },
            3 => Self::Exited { code: value },
            4 => Self::Signalled { signal: value },
            5 => Self::Empty,
            _ => return None,
        })
    }
}

/// Sends a spec with its descriptors.
pub(crate) fn send_spec(
    mut control: &UnixStream,
    spec: &Spec,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let body = spec.encode_to_vec();
    let length = u32::try_from(body.len())
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?
        .to_le_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let sent = rustix::net::sendmsg(
        control,
        &[IoSlice::new(&length)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    control.write_all(length.get(sent..).unwrap_or_default())?;
    control.write_all(&body)
}

/// Receives a spec with its descriptors, which are close-on-exec. `None`: PID 1 died before it had a job to give.
pub(crate) fn receive_spec(mut control: &UnixStream) -> io::Result<Option<(Spec, Vec<OwnedFd>)>> {
    let mut length = [0_u8; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        control.as_fd(),
        &mut [IoSliceMut::new(&mut length)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    if received.bytes == 0 {
        return Ok(None);
    }
    control.read_exact(length.get_mut(received.bytes..).unwrap_or_default())?;
    let mut fds = Vec::with_capacity(MAX_FDS);
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    let mut body = vec![0; usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX)];
    control.read_exact(&mut body)?;
    Ok(Some((Spec::decode(&*body).map_err(io::Error::other)?, fds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_the_wire() {
        let events = [
            Event::Started {
                pid: i32::MAX,
                cgroups: 3,
            },
            Event::Failed {
                stage: Stage::Interpreter,
                errno: 2,
            },
            Event::Exited { code: 255 },
            Event::Signalled { signal: 9 },
            Event::Empty,
        ];
        for event in events {
            assert_eq!(Event::decode(event.encode()), Some(event));
        }
        assert_eq!(Event::decode([9; 8]), None);
    }

    #[test]
    fn a_large_spec_arrives_with_its_descriptors() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let spec = Spec {
            argv: vec![vec![0xff; 3 << 20], Vec::new()],
            uid: 7,
            ..Spec::default()
        };
        let sent = spec.clone();
        let sender = std::thread::spawn(move || {
            let null = std::fs::File::open("/dev/null").unwrap();
            send_spec(&ours, &sent, &[null.as_fd(); MAX_FDS]).unwrap();
        });
        let (received, fds) = receive_spec(&theirs).unwrap().unwrap();
        sender.join().unwrap();
        assert_eq!((received, fds.len()), (spec, MAX_FDS));
        for fd in &fds {
            assert!(
                rustix::io::fcntl_getfd(fd)
                    .unwrap()
                    .contains(rustix::io::FdFlags::CLOEXEC)
            );
        }
    }
}
