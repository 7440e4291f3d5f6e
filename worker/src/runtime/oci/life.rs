//! The folder of a life: made whole, and removed so that a half-removed one is never taken for a life.

use std::fs;
use std::io;
use std::os::unix::fs::chown;

use shared::ids::EnvironmentUid;
use shared::ports::{Placement, RuntimeError};

use super::fault::{failed, unavailable};
use super::files;
use super::host::Host;
use super::layout::Home;
use super::record::Record;
use super::remove::remove_tree;
use super::spec::USER;

impl Host {
    /// Makes the folder of a new life: all of it or nothing.
    pub(super) fn make(&self, placement: &Placement) -> Result<Record, RuntimeError> {
        let (home, making) = (
            self.layout.home(&placement.uid),
            self.layout.making(&placement.uid),
        );
        if fs::symlink_metadata(home.folder()).is_ok() {
            return Err(failed(
                "uid_taken",
                format!("{} is not of this instance", placement.uid),
            ));
        }
        let made = (|| {
            remove_tree(making.folder())?;
            let record = Record {
                instance: self.layout.instance().clone(),
                tenant: placement.tenant.clone(),
                environment: placement.environment.clone(),
                uid: placement.uid.clone(),
                first_host_id: self.ranges.take(&placement.uid)?,
                created_at: self.clock.now(),
            };
            files::folder(making.folder(), 0o700)?;
            make_folders(&making, &record)?;
            record.write(&making)?;
            fs::rename(making.folder(), home.folder())?;
            Ok(record)
        })();
        made.map_err(unavailable::<io::Error>(
            "the environment's folder cannot be made",
        ))
    }

    /// Removes the life's folder, or what earlier attempts have left of it, and gives its uids back.
    pub(super) fn discard(&self, uid: &EnvironmentUid) -> io::Result<()> {
        let deleting = self.layout.deleting(uid);
        remove_tree(&deleting)?;
        if matches!(self.own(uid), Ok(Some(_))) {
            fs::rename(self.layout.home(uid).folder(), &deleting)?;
        }
        remove_tree(&deleting)?;
        remove_tree(self.layout.making(uid).folder())?;
        self.ranges.give_back(uid)
    }
}

/// The folders of a life, where they are not there.
pub(super) fn make_folders(home: &Home, record: &Record) -> io::Result<()> {
    let user = record.first_host_id + USER;
    for (folder, mode, owner) in [
        (home.volume(), 0o750, Some(user)),
        (home.runner_state(), 0o700, Some(record.first_host_id)),
        (home.bundle(), 0o700, None),
    ] {
        if !folder.is_dir() {
            files::folder(&folder, mode)?;
            chown(&folder, owner, owner)?;
        }
    }
    Ok(())
}
