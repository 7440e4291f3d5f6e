//! Giving a file or folder another path: one rename, at most once per job id.

use std::path::Path;

use rustix::io::Errno;

use super::Files;
use super::fault::{Fault, Refused};
use super::place::{absolute, named_entry, open_folder};
use super::remove::{check_unprotected, is_folder, protected};
use super::write::make_folders;
use crate::proto::{FileErrorCode, MoveFileReply, MoveFileRequest};

impl Files {
    /// Moves what is at a path, at most once per job id.
    pub(crate) async fn move_file(
        &self,
        request: MoveFileRequest,
    ) -> Result<MoveFileReply, Refused> {
        let MoveFileRequest { permit, from, to } = request;
        self.once(permit, move |volume, _| Ok(rename(volume, &from, &to)?))
            .await
    }
}

fn rename(volume: &Path, from: &[u8], to: &[u8]) -> Result<MoveFileReply, Fault> {
    let (from, to) = (absolute(volume, from)?, absolute(volume, to)?);
    let (Some(from_above), Some(from_name)) = (from.parent(), from.file_name()) else {
        return Err(protected());
    };
    let (Some(to_above), Some(to_name)) = (to.parent(), to.file_name()) else {
        return Err(protected());
    };
    let from_folder = open_folder(from_above)?;
    if is_folder(&from_folder, from_name)? {
        check_unprotected(volume, &from_folder, from_name)?;
    }
    make_folders(to_above)?;
    let to_folder = open_folder(to_above)?;
    rustix::fs::renameat(&from_folder, from_name, &to_folder, to_name).map_err(
        |errno| match errno {
            // A folder into itself.
            Errno::INVAL => Fault::new(
                FileErrorCode::InvalidPath,
                "a folder cannot be moved into itself",
            ),
            Errno::XDEV => Fault::new(
                FileErrorCode::OtherFileSystem,
                "the two paths are on different file systems: copy it with a command",
            ),
            errno => errno.into(),
        },
    )?;
    Ok(MoveFileReply {
        from: named_entry(&from, &from_folder, from_name).into(),
        to: named_entry(&to, &to_folder, to_name).into(),
    })
}
