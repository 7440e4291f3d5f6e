//! Making a folder, at most once per job id.

use std::path::Path;
use std::sync::Arc;

use rustix::fs::Mode;
use rustix::io::Errno;

use super::Files;
use super::fault::{Fault, Refused};
use super::mutation::Reply;
use super::place::{absolute, named, named_entry, open_folder};
use super::write::make_folders;
use crate::ids::Permit;
use crate::jobs::Refusal;
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
        let permit =
            Permit::try_from(permit).map_err(|error| Refusal::Invalid(error.to_string()))?;
        self.jobs.permit_mutation(&permit)?;
        let slot = self.mutations.slot(&permit.job);
        let (jobs, pool, volume) = (
            Arc::clone(&self.jobs),
            self.pool.clone(),
            Arc::clone(&self.volume),
        );
        // It goes on if the caller goes away, so that its reply is kept.
        let making = tokio::spawn(async move {
            let mut done = slot.lock().await;
            match done.clone() {
                Some(Reply::Made(reply)) => return Ok(reply),
                Some(_) => return Err(Refusal::AlreadyStarted.into()),
                None => {}
            }
            jobs.begin_mutation(&permit)?;
            let reply = pool.run(move || make(&volume, &path, parents)).await??;
            *done = Some(Reply::Made(reply.clone()));
            Ok(reply)
        });
        making
            .await
            .unwrap_or_else(|error| Err(Fault::from(std::io::Error::other(error)).into()))
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
