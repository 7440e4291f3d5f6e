//! The folder of a life: made whole, and removed so that a half-removed one is never taken for a life.

use std::fs;
use std::io;
use std::os::unix::fs::chown;

use shared::ids::EnvironmentUid;
use shared::ports::{Placement, RuntimeError};

use super::fault::{failed, unavailable};
use super::files;
use super::host::Host;
use super::image::Person;
use super::layout::Home;
use super::record::{LifeImage, Owner, Record};
use super::remove::remove_tree;

/// A life, or what is held ready to become one: where it is, and whose.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) home: Home,
    pub(super) record: Record,
}

impl Host {
    /// Makes the folder of a new life, which stands on the image: all of it or nothing.
    pub(super) fn make(
        &self,
        placement: &Placement,
        image: Option<&LifeImage>,
    ) -> Result<Life, RuntimeError> {
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
            let owner = Some(Owner::of(placement));
            let record = self.fill(&making, &placement.uid, owner, image)?;
            fs::rename(making.folder(), home.folder())?;
            Ok(Life { home, record })
        })();
        made.map_err(unavailable::<io::Error>(
            "the environment's folder cannot be made",
        ))
    }

    /// Makes a folder with all that a life begins with. It is whole when it has a record.
    pub(super) fn fill(
        &self,
        home: &Home,
        uid: &EnvironmentUid,
        owner: Option<Owner>,
        image: Option<&LifeImage>,
    ) -> io::Result<Record> {
        let record = Record {
            instance: self.layout.instance().clone(),
            owner,
            uid: uid.clone(),
            born: None,
            first_host_id: match image {
                // In a namespace the ids of an image's files are the ids of its environments.
                Some(_) if self.standing.is_namespace() => self.standing.image_ids(),
                _ => self.ranges.take(uid)?,
            },
            created_at: self.clock.now(),
        };
        files::folder(home.folder(), 0o700)?;
        if let Some(image) = image {
            image.write(home.folder())?;
        }
        make_folders(home, &record)?;
        record.write(home)?;
        Ok(record)
    }

    /// Removes the life's folder, or what earlier attempts have left of it, and gives its uids back.
    pub(super) fn discard(&self, uid: &EnvironmentUid) -> io::Result<()> {
        let deleting = self.layout.deleting(uid);
        remove_tree(&deleting)?;
        if let Ok(Some(life)) = self.own(uid) {
            self.let_go_of_name(&life.record, uid)?;
            fs::rename(self.layout.home(uid).folder(), &deleting)?;
        }
        remove_tree(&deleting)?;
        remove_tree(self.layout.making(uid).folder())?;
        self.ranges.give_back(uid)
    }
}

/// The folders of a life, where they are not there.
pub(super) fn make_folders(home: &Home, record: &Record) -> io::Result<()> {
    let first = record.first_host_id;
    let user = LifeImage::read(home.folder())?.map_or(Person::DEFAULT, |image| image.user);
    for (folder, mode, owner) in [
        (
            home.volume(),
            0o750,
            Some((first + user.uid, first + user.gid)),
        ),
        (home.runner_state(), 0o700, Some((first, first))),
        (home.bundle(), 0o700, None),
    ] {
        if !folder.is_dir() {
            files::folder(&folder, mode)?;
            let (uid, gid) = owner.unzip();
            chown(&folder, uid, gid)?;
        }
    }
    Ok(())
}
