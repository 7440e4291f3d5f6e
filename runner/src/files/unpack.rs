//! Unpacking an archive into a folder: all of it or nothing, at most once per job id, and nothing beside the folder.
//!
//! ```text
//!   archive ──▶ .em-HEX.part/ in the folder ──▶ is anything in the way? ──▶ moved entry by entry
//!                                                (the folder is new: one rename)
//! ```
//!
//! An archive is hostile: its names may be absolute or climb with `..`, its links may lead outside, its entries may be
//! devices. All of that is refused, and the archive with it. Whatever is written is reached from the new folder's own
//! descriptor, one part of a name after the other, never through a link, so that what an earlier entry made leads no later
//! one astray. A link may climb only within the folder, and only at its beginning: what follows a `..` there is a plain
//! name, so that no chain of links leads outside either.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, StreamExt};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use tonic::Status;

use super::Files;
use super::fault::{Fault, Refused};
use super::identity::IdentityPool;
use super::mutation::{Reply, Slot};
use super::place::{absolute, named, named_entry, open_folder};
use super::remove::remove_tree;
use super::tar::{Content, Entry, Flaw, Reader, Sink};
use super::write::make_folders;
use crate::MAX_FRAME_BYTES;
use crate::ids::{self, Permit};
use crate::jobs::{Jobs, Refusal};
use crate::proto::unpack_request::Event;
use crate::proto::{FileErrorCode, UnpackHead, UnpackReply, UnpackRequest};

/// Folders in each other, at most.
const MAX_DEPTH: usize = 256;

/// Bytes of a name in an archive, at most.
const MAX_NAME: usize = 4096;

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

/// An archive that is being unpacked, beside where it shall be.
struct Draft {
    reader: Reader,
    tree: Tree,
    place: Place,
    size: u64,
}

/// Where the draft is, and where it goes.
struct Place {
    /// Holds the draft.
    parent: OwnedFd,
    temporary: String,
    /// The folder that exists already, or the name under which the draft becomes it.
    target: Target,
    /// The path as the reply names it.
    path: Vec<u8>,
}

enum Target {
    Existing(OwnedFd),
    New(OsString),
}

/// Removes a draft that comes to nothing.
struct Unfinished {
    pool: IdentityPool,
    draft: Arc<Mutex<Option<Draft>>>,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let draft = Arc::clone(&self.draft);
        // After whatever still works on it, and with the rights that made it.
        self.pool.detach(move || {
            if let Some(draft) = lock(&draft).take() {
                draft.place.discard();
            }
        });
    }
}

fn lock(draft: &Mutex<Option<Draft>>) -> std::sync::MutexGuard<'_, Option<Draft>> {
    draft.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Files {
    /// Unpacks a stream of head, data, end.
    pub(crate) async fn unpack(
        &self,
        mut events: impl Stream<Item = Result<UnpackRequest, Status>> + Unpin,
    ) -> Result<UnpackReply, Refused> {
        let Some(Event::Head(head)) = next(&mut events).await? else {
            return Err(Refused::Request("the first message must be the head"));
        };
        let UnpackHead { permit, path } = head;
        let permit =
            Permit::try_from(permit).map_err(|error| Refusal::Invalid(error.to_string()))?;
        self.jobs.permit_mutation(&permit)?;
        let slot = self.mutations.slot(&permit.job);
        if let Some(reply) = slot.lock().await.clone() {
            return unpacked(reply);
        }
        let volume = Arc::clone(&self.volume);
        let draft = self
            .pool
            .run(move || Draft::begin(&volume, &path))
            .await??;
        let unfinished = Unfinished {
            pool: self.pool.clone(),
            draft: Arc::new(Mutex::new(Some(draft))),
        };
        receive(&mut events, &unfinished).await?;
        // It must not be torn by a caller that goes away: the moves and their reply belong together.
        let committing = tokio::spawn(commit(unfinished, Arc::clone(&self.jobs), permit, slot));
        committing
            .await
            .unwrap_or_else(|error| Err(Fault::from(std::io::Error::other(error)).into()))
    }
}

/// Takes in the archive, whole.
async fn receive(
    events: &mut (impl Stream<Item = Result<UnpackRequest, Status>> + Unpin),
    unfinished: &Unfinished,
) -> Result<(), Refused> {
    loop {
        match next(events).await? {
            Some(Event::Data(data)) if data.len() > MAX_FRAME_BYTES => {
                return Err(Refused::Request("data: more bytes than a frame may have"));
            }
            Some(Event::Data(data)) => {
                unfinished
                    .on_draft(move |draft| draft.push(&data))
                    .await??;
            }
            Some(Event::End(end)) => {
                return unfinished
                    .on_draft(move |draft| draft.finish(end.size))
                    .await?;
            }
            Some(Event::Head(_)) => return Err(Refused::Request("a second head")),
            None => {
                return Err(Refused::Incomplete(
                    "the archive ended without its end".to_owned(),
                ));
            }
        }
    }
}

async fn next(
    events: &mut (impl Stream<Item = Result<UnpackRequest, Status>> + Unpin),
) -> Result<Option<Event>, Refused> {
    match events.next().await {
        Some(Ok(request)) => Ok(Some(
            request.event.ok_or(Refused::Request("an empty message"))?,
        )),
        Some(Err(status)) => Err(Refused::Stream(Box::new(status))),
        None => Ok(None),
    }
}

fn unpacked(reply: Reply) -> Result<UnpackReply, Refused> {
    match reply {
        Reply::Unpacked(reply) => Ok(reply),
        _ => Err(Refusal::AlreadyStarted.into()),
    }
}

async fn commit(
    unfinished: Unfinished,
    jobs: Arc<Jobs>,
    permit: Permit,
    slot: Slot,
) -> Result<UnpackReply, Refused> {
    let mut done = slot.lock().await;
    if let Some(reply) = done.clone() {
        return unpacked(reply);
    }
    jobs.begin_mutation(&permit)?;
    let reply = unfinished
        .on_draft(|draft| draft.publish().map_err(Refused::from))
        .await??;
    if let Some(draft) = lock(&unfinished.draft).take() {
        // Only folders that were there before are left in it.
        unfinished.pool.detach(move || draft.place.discard());
    }
    *done = Some(Reply::Unpacked(reply.clone()));
    Ok(reply)
}

impl Unfinished {
    async fn on_draft<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Draft) -> Result<T, Refused> + Send + 'static,
    ) -> Result<Result<T, Refused>, Fault> {
        let draft = Arc::clone(&self.draft);
        self.pool
            .run(move || match lock(&draft).as_mut() {
                Some(draft) => act(draft),
                None => Err(Fault::new(FileErrorCode::FileIo, "the archive was given up").into()),
            })
            .await
    }
}

impl Draft {
    fn begin(volume: &Path, path: &[u8]) -> Result<Self, Fault> {
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
        let temporary = format!(".em-{}.part", ids::random_hex()?);
        rustix::fs::mkdirat(&parent, &temporary, Mode::RWXU)?;
        let root = enter(&parent, OsStr::new(&temporary))?;
        Ok(Self {
            reader: Reader::new(),
            tree: Tree::new(root),
            place: Place {
                parent,
                temporary,
                target,
                path,
            },
            size: 0,
        })
    }

    fn push(&mut self, data: &[u8]) -> Result<(), Refused> {
        self.size += data.len() as u64;
        self.reader.push(data, &mut self.tree)
    }

    /// Checks that all of it is there.
    fn finish(&mut self, size: u64) -> Result<(), Refused> {
        if size != self.size {
            let message = format!("{} bytes arrived, the end names {size}", self.size);
            return Err(Refused::Incomplete(message));
        }
        self.reader.finish()?;
        self.tree.file = None;
        // All of its file system: the files of an archive are many, and this is one call.
        let root = open_to_read(&self.tree.root).map_err(Fault::from)?;
        rustix::fs::syncfs(root).map_err(Fault::from)?;
        Ok(())
    }

    /// Moves the draft to where it shall be.
    fn publish(&mut self) -> Result<UnpackReply, Fault> {
        let Place {
            parent,
            temporary,
            target,
            path,
        } = &self.place;
        match target {
            Target::New(name) => {
                rustix::fs::fchmod(open_to_read(&self.tree.root)?, Mode::from_raw_mode(0o755))?;
                let flags = rustix::fs::RenameFlags::NOREPLACE;
                rustix::fs::renameat_with(parent, temporary, parent, name, flags).map_err(
                    |errno| match errno {
                        Errno::EXIST => Fault::new(
                            FileErrorCode::AlreadyExists,
                            "something was put there meanwhile",
                        ),
                        errno => errno.into(),
                    },
                )?;
            }
            Target::Existing(folder) => {
                find_conflict(&self.tree.root, folder, &[])?;
                merge(&self.tree.root, folder)?;
            }
        }
        Ok(UnpackReply {
            path: path.clone().into(),
            entries: self.tree.entries,
            size: self.size,
        })
    }
}

impl Place {
    fn discard(&self) {
        // Somebody may have removed it already.
        let _ = remove_tree(&self.parent, OsStr::new(&self.temporary), &|| Ok(()));
    }
}

/// What is being unpacked: a folder, and the file that is written now.
struct Tree {
    root: OwnedFd,
    /// The folder of the entry before, which mostly is that of the next one.
    last: Option<(Vec<Vec<u8>>, OwnedFd)>,
    file: Option<Writing>,
    entries: u64,
}

struct Writing {
    file: File,
    size: u64,
    mode: u32,
    mtime: i64,
}

impl Tree {
    fn new(root: OwnedFd) -> Self {
        Self {
            root,
            last: None,
            file: None,
            entries: 0,
        }
    }

    /// The folder of those names, made where it is missing; no part of it is a link.
    fn folder(&mut self, names: &[Vec<u8>]) -> Result<OwnedFd, Errno> {
        if let Some((known, folder)) = &self.last
            && known == names
        {
            return rustix::io::fcntl_dupfd_cloexec(folder, 0);
        }
        let mut folder = rustix::io::fcntl_dupfd_cloexec(&self.root, 0)?;
        for name in names {
            let name = OsStr::from_bytes(name);
            match rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
            folder = enter(&folder, name)?;
        }
        self.last = Some((names.to_vec(), rustix::io::fcntl_dupfd_cloexec(&folder, 0)?));
        Ok(folder)
    }

    /// Takes away what an earlier entry of the same name made.
    fn clear(folder: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
        match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn begin_file(
        &mut self,
        folder: &OwnedFd,
        name: &OsStr,
        entry: &Entry,
        size: u64,
    ) -> Result<(), Errno> {
        Self::clear(folder, name)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR)?;
        self.file = Some(Writing {
            file: file.into(),
            size,
            mode: entry.mode & 0o777,
            mtime: entry.mtime,
        });
        Ok(())
    }

    fn hard_link(
        &mut self,
        folder: &OwnedFd,
        name: &OsStr,
        shown: &str,
        target: &[u8],
    ) -> Result<(), Fault> {
        let mut names = parts(target, shown)?;
        let Some(last) = names.pop() else {
            return Err(refused(shown, "links to the folder itself"));
        };
        let last = OsStr::from_bytes(&last);
        let missing = |errno| match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => {
                refused(shown, "links to what is not in the archive before it")
            }
            errno => errno.into(),
        };
        let mut source = rustix::io::fcntl_dupfd_cloexec(&self.root, 0)?;
        for name in &names {
            source = enter(&source, OsStr::from_bytes(name)).map_err(missing)?;
        }
        let stat = rustix::fs::statat(&source, last, AtFlags::SYMLINK_NOFOLLOW).map_err(missing)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(refused(shown, "links to what is no file"));
        }
        let same = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|there| (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino));
        if same {
            return Ok(());
        }
        Self::clear(folder, name)?;
        rustix::fs::linkat(&source, last, folder, name, AtFlags::empty())?;
        Ok(())
    }
}

impl Sink for Tree {
    type Error = Refused;

    fn begin(&mut self, entry: Entry) -> Result<(), Refused> {
        self.entries += 1;
        let shown = String::from_utf8_lossy(&entry.name).into_owned();
        let mut names = parts(&entry.name, &shown)?;
        let is_folder = entry.content == Content::Folder;
        let Some(last) = names.pop() else {
            return match is_folder {
                // The folder itself, which is there.
                true => Ok(()),
                false => Err(refused(&shown, "has no name").into()),
            };
        };
        let last = OsString::from_vec(last);
        let placed = self
            .folder(&names)
            .map_err(|errno| in_the_way(&shown, errno))?;
        match &entry.content {
            Content::Folder => {
                // Its owner can always go in, else what follows could not be written.
                let mode = Mode::from_raw_mode(entry.mode & 0o777 | 0o700);
                match rustix::fs::mkdirat(&placed, &last, mode) {
                    Ok(()) => {}
                    Err(Errno::EXIST) => {
                        enter(&placed, &last).map_err(|errno| in_the_way(&shown, errno))?;
                    }
                    Err(errno) => return Err(Fault::from(errno).into()),
                }
                rustix::fs::chmodat(&placed, &last, mode, AtFlags::empty()).map_err(Fault::from)?;
            }
            Content::File { size } => {
                self.begin_file(&placed, &last, &entry, *size)
                    .map_err(|errno| in_the_way(&shown, errno))?;
            }
            Content::HardLink { target } => self.hard_link(&placed, &last, &shown, target)?,
            Content::Symlink { target } => {
                check_link(target, names.len(), &shown)?;
                Self::clear(&placed, &last).map_err(|errno| in_the_way(&shown, errno))?;
                rustix::fs::symlinkat(OsStr::from_bytes(target), &placed, &last)
                    .map_err(Fault::from)?;
            }
            Content::Other => {
                return Err(refused(&shown, "is neither a file, a folder nor a link").into());
            }
        }
        Ok(())
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Refused> {
        if let Some(writing) = &self.file {
            writing
                .file
                .write_all_at(bytes, offset)
                .map_err(Fault::from)?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Refused> {
        let Some(writing) = self.file.take() else {
            return Ok(());
        };
        let settle = || {
            rustix::fs::ftruncate(&writing.file, writing.size)?;
            rustix::fs::fchmod(&writing.file, Mode::from_raw_mode(writing.mode))?;
            let time = Timespec {
                tv_sec: writing.mtime,
                tv_nsec: 0,
            };
            let times = Timestamps {
                last_access: time,
                last_modification: time,
            };
            rustix::fs::futimens(&writing.file, &times)
        };
        Ok(settle().map_err(Fault::from)?)
    }
}

/// The parts of a name in an archive; one that leads anywhere but down is refused.
fn parts(name: &[u8], shown: &str) -> Result<Vec<Vec<u8>>, Fault> {
    if name.starts_with(b"/") {
        return Err(refused(shown, "has an absolute name"));
    }
    if name.contains(&0) || name.len() > MAX_NAME {
        return Err(refused(shown, "has a name that no file can have"));
    }
    let parts: Vec<Vec<u8>> = name
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
        .collect();
    if parts.iter().any(|part| part == b"..") {
        return Err(refused(shown, "climbs out of its folder"));
    }
    if parts.len() > MAX_DEPTH {
        return Err(refused(shown, "lies deeper than 256 folders"));
    }
    Ok(parts)
}

/// Refuses a symbolic link that may lead out of the folder; it lies `depth` folders below it.
fn check_link(target: &[u8], depth: usize, shown: &str) -> Result<(), Fault> {
    if target.is_empty() || target.contains(&0) || target.starts_with(b"/") {
        return Err(refused(shown, "is a link to outside of the folder"));
    }
    let names = target
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".");
    let (mut climbed, mut descends) = (0, false);
    for name in names {
        if name != b".." {
            descends = true;
            continue;
        }
        climbed += 1;
        if descends || climbed > depth {
            return Err(refused(shown, "is a link to outside of the folder"));
        }
    }
    Ok(())
}

fn refused(shown: &str, why: &str) -> Fault {
    Fault::new(
        FileErrorCode::ArchiveRefused,
        format!("the archive is refused: {shown:?} {why}"),
    )
}

/// An entry that meets another of the same archive.
fn in_the_way(shown: &str, errno: Errno) -> Fault {
    match errno {
        Errno::NOTDIR | Errno::LOOP => refused(shown, "goes through an entry that is no folder"),
        Errno::ISDIR | Errno::PERM | Errno::EXIST => refused(shown, "takes the place of a folder"),
        errno => errno.into(),
    }
}

/// Enters a folder that is no link.
fn enter(folder: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}

/// The same folder, to be read.
fn open_to_read(folder: &OwnedFd) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(folder, ".", flags, Mode::empty())
}

/// The entries of a folder.
fn entries(folder: &OwnedFd) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(open_to_read(folder)?)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    Ok(names)
}

/// What a name in a folder is, if it is there; links are not followed.
fn kind(folder: &OwnedFd, name: &OsStr) -> Result<Option<FileType>, Errno> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Refuses what would take the place of a folder, or need one where something else is.
fn find_conflict(from: &OwnedFd, to: &OwnedFd, path: &[u8]) -> Result<(), Fault> {
    for name in entries(from)? {
        let new = kind(from, &name)?;
        let Some(old) = kind(to, &name)? else {
            continue;
        };
        let path = [path, b"/", name.as_bytes()].concat();
        let shown = String::from_utf8_lossy(path.get(1..).unwrap_or_default()).into_owned();
        match (new == Some(FileType::Directory), old == FileType::Directory) {
            (true, true) => find_conflict(&enter(from, &name)?, &enter(to, &name)?, &path)?,
            (true, false) => {
                let message = format!("{shown:?} is there and is no folder");
                return Err(Fault::new(FileErrorCode::NotADirectory, message));
            }
            (false, true) => {
                let message = format!("{shown:?} is there and is a folder");
                return Err(Fault::new(FileErrorCode::IsADirectory, message));
            }
            (false, false) => {}
        }
    }
    Ok(())
}

/// Moves all entries; those of folders that are there one by one, each by a rename.
fn merge(from: &OwnedFd, to: &OwnedFd) -> Result<(), Fault> {
    for name in entries(from)? {
        let both = kind(from, &name)? == Some(FileType::Directory)
            && kind(to, &name)? == Some(FileType::Directory);
        if both {
            merge(&enter(from, &name)?, &enter(to, &name)?)?;
        } else {
            rustix::fs::renameat(from, &name, to, &name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_only_down() {
        let names = |name: &[u8]| parts(name, "x").map(|parts| parts.concat());
        assert_eq!(names(b"./a//b/.").unwrap(), b"ab");
        assert_eq!(names(b"./").unwrap(), b"");
        assert_eq!(names(b"a/..b/...").unwrap(), b"a..b...");
        for bad in [
            &b"/a"[..],
            b"..",
            b"a/../b",
            b"a/..",
            b"a\0b",
            &[b'x'; 5000],
        ] {
            assert!(names(bad).is_err(), "{bad:?}");
        }
        assert!(names(&b"a/".repeat(257)).is_err());
    }

    #[test]
    fn links_climb_only_within_the_folder_and_first() {
        let fine = |target: &[u8], depth| check_link(target, depth, "x").is_ok();
        assert!(fine(b"a/b", 0) && fine(b"../a", 1) && fine(b"../..", 2) && fine(b"./.././b", 1));
        assert!(!fine(b"..", 0) && !fine(b"../../a", 1) && !fine(b"/etc", 5) && !fine(b"", 1));
        // It may lead through another link, whose parent is not what its name says.
        assert!(!fine(b"a/../b", 3) && !fine(b"../a/..", 3));
    }
}
