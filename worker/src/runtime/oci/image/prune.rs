//! What of the images is listed, and what of them goes.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fs;
use std::io;

use jiff::SignedDuration;

use super::super::lock::Lock;
use super::super::record::LifeImage;
use super::super::remove::remove_tree;
use super::shelf::ImageId;
use super::{Images, Listed, lock_of};

impl Images {
    /// Every image that is there, the one that was used last first.
    pub fn list(&self) -> io::Result<Vec<Listed>> {
        let in_use = self.in_use()?;
        let meanings = self.shelf.meanings()?;
        let listed = self.shelf.images()?.into_iter().map(|(image, used_at)| {
            let meaning = meanings.iter().filter(|meaning| meaning.image == image.id);
            let mut references: Vec<_> = meaning.map(|found| found.reference.clone()).collect();
            references.sort();
            references.dedup();
            Listed {
                in_use: in_use.contains(&image.id),
                bytes: image.bytes,
                fetched_at: image.fetched_at,
                used_at,
                references,
                id: image.id,
            }
        });
        let mut listed: Vec<_> = listed.collect();
        listed.sort_by_key(|listed| Reverse(listed.used_at));
        Ok(listed)
    }

    /// Removes what no environment stands on: all of it, or what nothing has used for as long as the settings say.
    /// Answers what went. What interrupted pulls and removals have left goes too.
    pub fn prune(&self, all: bool) -> io::Result<Vec<Listed>> {
        let unused = SignedDuration::from_hours(match all {
            true => 0,
            false => 24 * i64::from(self.settings.unused_days),
        });
        self.remove_leftovers()?;
        let mut removed = Vec::new();
        for found in self.list()? {
            // Held for one image at a time: a create need not wait for all of them.
            let _held = self.hold()?;
            let now = self.clock.now();
            if self.in_use()?.contains(&found.id) {
                if let Some(image) = self.shelf.image(&found.id)? {
                    self.shelf.note_use(&image, now)?;
                }
            } else if now.duration_since(found.used_at) >= unused {
                self.shelf.remove(&found.id)?;
                removed.push(found);
            }
        }
        Ok(removed)
    }

    fn remove_leftovers(&self) -> io::Result<()> {
        for key in self.shelf.leftovers()? {
            // Who pulls holds the lock.
            if let Some(lock) = Lock::try_take(&self.locks, &lock_of(&key))? {
                remove_tree(&self.shelf.pulling(&key))?;
                lock.retire()?;
            }
        }
        Ok(())
    }

    /// The images that some environment stands on, also one that is being made or deleted, of any instance.
    fn in_use(&self) -> io::Result<BTreeSet<ImageId>> {
        let mut found = BTreeSet::new();
        for entry in fs::read_dir(&self.environments)? {
            let image = LifeImage::read(&entry?.path())?;
            found.extend(image.map(|image| image.id));
        }
        Ok(found)
    }
}
