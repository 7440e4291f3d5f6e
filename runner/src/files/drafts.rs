//! Where drafts are, written down before they are made: what this PID 1 leaves when it is killed, the next one removes.
//!
//! A note is a link in the state folder, `HEX -> the folder of the draft`: made by one call, and never half there. It goes
//! when the draft has, and not before. Names and places are the user's, and whatever is done with them is done with his
//! rights; the state folder is PID 1's own. Nothing that is wrong with the notes keeps PID 1 from starting, or anybody from
//! writing: at worst a draft stays.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::identity::IdentityPool;
use super::place::{open_folder, real};
use super::remove::remove_tree;
use crate::ids;

/// The folder of notes.
#[derive(Debug)]
pub(super) struct Drafts(PathBuf);

/// The note of one draft, and the draft's name.
#[derive(Debug)]
pub(super) struct Note {
    link: Option<PathBuf>,
    name: String,
}

impl Drafts {
    /// Opens the notes in a state folder.
    pub(super) fn open(state: &Path) -> Self {
        let folder = state.join("drafts");
        match std::fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                crate::complain!("em-runner: drafts cannot be noted: {error}");
            }
            _ => {}
        }
        Self(folder)
    }

    /// Gives a name to a draft that will be in this folder. One that cannot be noted, where the disk is full or the path
    /// too long, is a draft all the same: only a killed PID 1 leaves it there.
    pub(super) fn note(&self, folder: &OwnedFd) -> io::Result<Note> {
        let hex = ids::random_hex()?;
        let link = self.0.join(&hex);
        let noted = real(folder).and_then(|at| std::os::unix::fs::symlink(at, &link));
        if let Err(error) = &noted {
            crate::complain!("em-runner: a draft cannot be noted: {error}");
        }
        Ok(Note {
            link: noted.is_ok().then_some(link),
            name: name_of(&hex),
        })
    }

    /// What an earlier PID 1 left, to be removed by [`Left::remove`]. Call it before there is a draft of this one.
    pub(super) fn left(&self) -> Vec<Left> {
        let mut found = Vec::new();
        let read = std::fs::read_dir(&self.0).and_then(|entries| {
            for entry in entries {
                let entry = entry?;
                let (link, hex) = (entry.path(), entry.file_name());
                if let (Ok(folder), Some(hex)) = (std::fs::read_link(&link), hex.to_str()) {
                    let name = name_of(hex).into();
                    found.push(Left { link, folder, name });
                }
            }
            Ok(())
        });
        if let Err(error) = read {
            crate::complain!("em-runner: the notes of drafts cannot be read: {error}");
        }
        found
    }
}

impl Note {
    /// The draft's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Forgets a draft that is gone.
    pub(super) fn forget(&self) {
        if let Some(link) = &self.link {
            forget(link);
        }
    }
}

/// A draft that an earlier PID 1 left.
pub(crate) struct Left {
    link: PathBuf,
    folder: PathBuf,
    name: OsString,
}

impl Left {
    /// Removes it with the rights that made it, then its note.
    pub(super) async fn remove(self, pool: &IdentityPool) {
        let Self { link, folder, name } = self;
        let removed = pool
            .run(move || match open_folder(&folder) {
                Ok(folder) => match rustix::fs::unlinkat(&folder, &name, AtFlags::empty()) {
                    Err(Errno::ISDIR | Errno::PERM) => {
                        remove_tree(&folder, &name, &|| Ok(())).is_ok()
                    }
                    Ok(()) | Err(Errno::NOENT) => true,
                    // It is tried again at the next start.
                    Err(_) => false,
                },
                // Its folder went, or is not there in this start of the container.
                Err(Errno::NOENT | Errno::NOTDIR) => true,
                Err(_) => false,
            })
            .await;
        if matches!(removed, Ok(true)) {
            forget(&link);
        }
    }
}

fn forget(link: &Path) {
    match std::fs::remove_file(link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            // The next PID 1 looks for a draft that is not there.
            crate::complain!("em-runner: the note of a draft cannot be removed: {error}");
        }
        _ => {}
    }
}

fn name_of(hex: &str) -> String {
    format!(".em-{hex}.part")
}
