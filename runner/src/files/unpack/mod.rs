//! Unpacking an archive into a folder: all of it or nothing, at most once per job id, and nothing beside the folder.
//!
//! ```text
//!   archive ──▶ .em-HEX.part/ in the folder ──▶ is anything in the way? ──▶ moved entry by entry
//!                                                (the folder is new: one rename)
//! ```
//!
//! An archive is hostile: its names may be absolute or climb with `..`, its links may lead outside, its entries may be
//! devices. All of that is refused, and the archive with it ([`names`], [`tree`]). A link may climb only within the folder, and only at its beginning: what follows a `..` there is a plain
//! name, so that no chain of links leads outside either.

mod merge;
mod names;
mod tree;

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use bytes::Bytes;
use futures::Stream;
use rustix::fs::Mode;
use rustix::io::Errno;
use tonic::Status;

use self::merge::{find_conflict, merge};
use self::tree::{Tree, enter, open_to_read};
use super::Files;
use super::draft::{self, Draft, Message, Piece, Place};
use super::fault::{Fault, Refused};
use super::place::{absolute, named, named_entry, open_folder};
use super::remove::remove_tree;
use super::tar::{Flaw, Reader};
use super::write::make_folders;
use crate::ids::Permit;
use crate::jobs::Refusal;
use crate::proto::unpack_request::Event;
use crate::proto::{FileErrorCode, UnpackHead, UnpackReply, UnpackRequest};

impl From<Flaw> for Fault {
    fn from(flaw: Flaw) -> Self {
        Self::new(FileErrorCode::ArchiveRefused, flaw.to_string())
    }
}

impl From<Flaw> for Refused {
    fn from(flaw: Flaw) -> Self {
        Fault::from(flaw).into()
    }
}

/// Where an archive is to be unpacked.
struct FolderPlace {
    /// Holds the draft.
    parent: OwnedFd,
    /// The folder that exists already, or the name under which the draft becomes it.
    target: Target,
    /// The path as the reply names it.
    path: Vec<u8>,
}

enum Target {
    Existing(OwnedFd),
    New(OsString),
}

/// An archive that is being unpacked, beside where it shall be.
struct FolderDraft {
    place: FolderPlace,
    temporary: String,
    reader: Reader,
    tree: Tree,
    size: u64,
}

impl Message for UnpackRequest {
    type Head = UnpackHead;

    fn piece(self) -> Option<Piece<UnpackHead>> {
        Some(match self.event? {
            Event::Head(head) => Piece::Head(head),
            Event::Data(data) => Piece::Data(data),
            Event::End(end) => Piece::End(end.size),
        })
    }
}

impl Files {
    /// Unpacks a stream of head, data, end.
    pub(crate) async fn unpack(
        &self,
        mut events: impl Stream<Item = Result<UnpackRequest, Status>> + Unpin,
    ) -> Result<UnpackReply, Refused> {
        let UnpackHead { permit, path } = draft::head(&mut events).await?;
        let permit =
            Permit::try_from(permit).map_err(|error| Refusal::Invalid(error.to_string()))?;
        let find = move |volume: &Path| FolderPlace::find(volume, &path);
        self.take_in(permit, events, find).await
    }
}

impl FolderPlace {
    fn find(volume: &Path, path: &[u8]) -> Result<Self, Fault> {
        let asked = absolute(volume, path)?;
        let (parent, target, path) = match open_folder(&asked) {
            Ok(folder) => {
                let path = named(&asked, &folder);
                let parent = rustix::io::fcntl_dupfd_cloexec(&folder, 0)?;
                (parent, Target::Existing(folder), path)
            }
            Err(Errno::NOENT) => {
                let (above, name) = match (asked.parent(), asked.components().next_back()) {
                    (Some(above), Some(Component::Normal(name))) => (above, name.to_owned()),
                    _ => return Err(Errno::NOENT.into()),
                };
                make_folders(above)?;
                let parent = open_folder(above)?;
                let path = named_entry(&asked, &parent, &name);
                (parent, Target::New(name), path)
            }
            Err(errno) => return Err(errno.into()),
        };
        Ok(Self {
            parent,
            target,
            path,
        })
    }
}

impl Place for FolderPlace {
    type Draft = FolderDraft;

    fn folder(&self) -> &OwnedFd {
        &self.parent
    }

    fn begin(self, name: &str) -> Result<FolderDraft, Fault> {
        rustix::fs::mkdirat(&self.parent, name, Mode::RWXU)?;
        let root = enter(&self.parent, OsStr::new(name))?;
        Ok(FolderDraft {
            place: self,
            temporary: name.to_owned(),
            reader: Reader::new(),
            tree: Tree::new(root),
            size: 0,
        })
    }
}

impl Draft for FolderDraft {
    type Reply = UnpackReply;

    fn append(&mut self, data: &Bytes) -> Result<(), Refused> {
        self.size += data.len() as u64;
        self.reader.push(data, &mut self.tree)
    }

    fn settle(&mut self, size: u64) -> Result<(), Refused> {
        if size != self.size {
            let message = format!("{} bytes arrived, the end names {size}", self.size);
            return Err(Refused::Incomplete(message));
        }
        self.reader.finish()?;
        Ok(self.tree.settle().map_err(Fault::from)?)
    }

    fn publish(&mut self) -> Result<UnpackReply, Refused> {
        self.move_in()?;
        Ok(UnpackReply {
            path: self.place.path.clone().into(),
            entries: self.tree.entries,
            size: self.size,
        })
    }

    fn discard(self) {
        // It became the folder, or somebody has removed it already; or only folders that were there before are left in it.
        let name = OsStr::new(&self.temporary);
        let _ = remove_tree(&self.place.parent, name, &|| Ok(()));
    }
}

impl FolderDraft {
    fn move_in(&self) -> Result<(), Fault> {
        let FolderPlace { parent, target, .. } = &self.place;
        match target {
            Target::New(name) => {
                rustix::fs::fchmod(open_to_read(&self.tree.root)?, Mode::from_raw_mode(0o755))?;
                move_folder(parent, &self.temporary, name).map_err(|errno| match errno {
                    Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR => Fault::new(
                        FileErrorCode::AlreadyExists,
                        "something was put there meanwhile",
                    ),
                    errno => errno.into(),
                })
            }
            Target::Existing(folder) => {
                find_conflict(&self.tree.root, folder, &[])?;
                merge(&self.tree.root, folder)
            }
        }
    }
}

/// Moves a folder to where nothing is. Where the file system cannot promise that (gVisor's, of what it shares), nothing but
/// an empty folder is replaced: the kernel puts a folder in no other place.
fn move_folder(parent: &OwnedFd, from: &str, to: &OsStr) -> Result<(), Errno> {
    let flags = rustix::fs::RenameFlags::NOREPLACE;
    match rustix::fs::renameat_with(parent, from, parent, to, flags) {
        Err(Errno::INVAL) => rustix::fs::renameat(parent, from, parent, to),
        moved => moved,
    }
}
