//! Making a folder, at most once per job id.

use std::path::Path;

use rustix::fs::Mode;
use rustix::io::Errno;

use super::Files;
use super::fault::{Fault, Refused};
use super::place::{absolute, named, named_entry, open_folder};
use super::write::make_folders;
use crate::proto::{FileErrorCode, MakeFolderReply, MakeFolderRequest};

impl Files {
    /// Makes a folder, at most once per job id.
    pub(crate) async fn make_folder(
        &self,
        request: MakeFolderRequest,
    ) -> Result<MakeFolderReply, Refused> {
        let MakeFolderRequest {
            permit,
            path,
            parents,
        } = request;
        self.once(permit, move |volume, _| Ok(make(volume, &path, parents)?))
            .await
    }
}

fn make(volume: &Path, path: &[u8], parents: bool) -> Result<MakeFolderReply, Fault> {
    let asked = absolute(volume, path)?;
    let there = |fault: Fault| match open_folder(&asked) {
        Ok(folder) if parents => Ok(MakeFolderReply {
            path: named(&asked, &folder).into(),
            made: false,
        }),
        _ => Err(fault),
    };
    let exists = || Fault::new(FileErrorCode::AlreadyExists, "it is there already");
    let (Some(above), Some(name)) = (asked.parent(), asked.file_name()) else {
        return there(exists());
    };
    if parents {
        make_folders(above)?;
    }
    let folder = open_folder(above)?;
    match rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => Ok(MakeFolderReply {
            path: named_entry(&asked, &folder, name).into(),
            made: true,
        }),
        Err(Errno::EXIST) => there(exists()),
        Err(errno) => Err(errno.into()),
    }
}
