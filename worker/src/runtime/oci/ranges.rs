//! Which host users an environment's users are.
//!
//! Every life has 65,536 host uids (and the gids of the same numbers) of its own, so that root in one environment is
//! nobody on the machine and nobody in any other environment. A range is taken by making a file in `.ranges`, under a
//! lock that all workers of the folder share, and given back when nothing that belongs to it is left on disk.
//! Instances begin their search at different places, so that two installations on one machine seldom share a range.
//!
//! An ordinary user often has no more subordinate ids than one range. Then his environments share it, the least used
//! first, and are apart by their namespaces alone.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use sha2::{Digest, Sha256};
use shared::ids::{EnvironmentUid, InstanceId};

use super::files;
use super::lock::Lock;

/// Uids of one range.
pub(super) const SIZE: u32 = 1 << 16;
/// The first uid of the first range: above what a machine's own users and their subordinate ids usually have.
const FIRST: u32 = 1 << 20;
/// Number of ranges of lives: all below 2^31, since some programs take uids for signed numbers, but for the last.
const SLOTS: u32 = ((1 << 31) - FIRST) / SIZE - 1;
/// The last range is nobody's: the files of images belong to it on disk.
pub(super) const IMAGES: u32 = FIRST + SLOTS * SIZE;

/// The ids that there are for environments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ids {
    /// The first id of the first range.
    pub(super) first: u32,
    /// Number of ranges.
    pub(super) slots: u32,
    /// Whether a range that is taken may be taken again when there is no other.
    pub(super) shared: bool,
}

impl Ids {
    /// Those of a machine whose root this process is.
    pub(super) fn of_the_machine() -> Self {
        Self {
            first: FIRST,
            slots: SLOTS,
            shared: false,
        }
    }

    fn first_of(self, slot: u32) -> u32 {
        self.first + slot * SIZE
    }
}

/// The ranges that are taken, a folder.
#[derive(Debug)]
pub(super) struct Ranges {
    folder: PathBuf,
    locks: PathBuf,
    instance: InstanceId,
    ids: Ids,
}

impl Ranges {
    pub(super) fn new(folder: PathBuf, locks: PathBuf, instance: InstanceId, ids: Ids) -> Self {
        Self {
            folder,
            locks,
            instance,
            ids,
        }
    }

    /// The first host uid of the life's range, which is taken for it if it has none yet.
    pub(super) fn take(&self, uid: &EnvironmentUid) -> io::Result<u32> {
        let _lock = Lock::take(&self.locks, "ranges")?;
        let mut taken: BTreeMap<u32, usize> = BTreeMap::new();
        for (slot, owner) in self.entries()? {
            if owner == self.owner(uid) {
                return Ok(self.ids.first_of(slot));
            }
            *taken.entry(slot).or_default() += 1;
        }
        let begin = begin_of(&self.instance);
        let takers = |slot: &u32| taken.get(slot).copied().unwrap_or_default();
        let slots =
            (0..self.ids.slots).map(|step| (begin % self.ids.slots + step) % self.ids.slots);
        let free = slots.clone().find(|slot| takers(slot) == 0).or_else(|| {
            let shared = self.ids.shared;
            slots.min_by_key(takers).filter(|_| shared)
        });
        let free = free.ok_or_else(|| io::Error::other("every range of host uids is taken"))?;
        File::create_new(self.folder.join(format!("{free}.{}", self.owner(uid))))?;
        Ok(self.ids.first_of(free))
    }

    /// Gives the life's range back. None to give back is success.
    pub(super) fn give_back(&self, uid: &EnvironmentUid) -> io::Result<()> {
        let _lock = Lock::take(&self.locks, "ranges")?;
        for (slot, owner) in self.entries()? {
            if owner == self.owner(uid) {
                files::absent(fs::remove_file(self.folder.join(format!("{slot}.{owner}"))))?;
            }
        }
        Ok(())
    }

    /// Makes the range of one life another's. None to pass on is success.
    pub(super) fn pass_on(&self, from: &EnvironmentUid, to: &EnvironmentUid) -> io::Result<()> {
        let _lock = Lock::take(&self.locks, "ranges")?;
        for (slot, owner) in self.entries()? {
            if owner == self.owner(from) {
                let file = |uid| self.folder.join(format!("{slot}.{}", self.owner(uid)));
                files::absent(fs::rename(file(from), file(to)))?;
            }
        }
        Ok(())
    }

    /// Who stands in the name of a range's file.
    fn owner(&self, uid: &EnvironmentUid) -> String {
        format!("{uid}.{}", self.instance)
    }

    fn entries(&self) -> io::Result<Vec<(u32, String)>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            let parts = name.to_str().and_then(|name| name.split_once('.'));
            if let Some((slot, owner)) = parts
                && let Ok(slot) = slot.parse()
            {
                entries.push((slot, owner.to_owned()));
            }
        }
        Ok(entries)
    }
}

fn begin_of(instance: &InstanceId) -> u32 {
    let hash = Sha256::digest(instance.as_str());
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn uid(number: u32) -> EnvironmentUid {
        let letters: String = format!("{number:010}")
            .chars()
            .map(|digit| char::from(b'a' + (digit as u8 - b'0')))
            .collect();
        EnvironmentUid::new(letters).expect("a uid")
    }

    fn ranges(folder: &tempfile::TempDir, ids: Ids) -> Ranges {
        let (ranges, locks) = (folder.path().join("ranges"), folder.path().join("locks"));
        fs::create_dir(&ranges).expect("made");
        fs::create_dir(&locks).expect("made");
        Ranges::new(ranges, locks, InstanceId::from_random([3; 16]), ids)
    }

    #[test]
    fn ranges_are_apart_kept_and_given_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let ranges = ranges(&folder, Ids::of_the_machine());
        let all: BTreeSet<u32> = (0..50)
            .map(|number| ranges.take(&uid(number)).expect("a range"))
            .collect();
        assert_eq!(all.len(), 50);
        for first in &all {
            assert!(*first >= FIRST && first % SIZE == 0 && *first < (1 << 31));
        }
        let seventh = ranges.take(&uid(7)).expect("the same again");
        assert!(all.contains(&seventh));
        ranges.give_back(&uid(7)).expect("given back");
        ranges.give_back(&uid(7)).expect("twice is no error");
        assert_eq!(ranges.take(&uid(99)).expect("a range"), seventh);
        ranges.pass_on(&uid(99), &uid(7)).expect("passed on");
        ranges
            .pass_on(&uid(99), &uid(7))
            .expect("twice is no error");
        assert_eq!(ranges.take(&uid(7)).expect("a range"), seventh);
        assert_ne!(ranges.take(&uid(99)).expect("a range"), seventh);
    }

    #[test]
    fn few_ranges_are_shared_evenly_only_where_that_is_allowed() {
        let few = |shared| Ids {
            first: 1,
            slots: 2,
            shared,
        };
        let folder = tempfile::tempdir().expect("a folder");
        let shared = ranges(&folder, few(true));
        let taken: Vec<u32> = (0..4)
            .map(|number| shared.take(&uid(number)).expect("a range"))
            .collect();
        assert_eq!((taken[0], taken[1]), (taken[2], taken[3]));
        assert_eq!(
            BTreeSet::from([taken[0], taken[1]]),
            BTreeSet::from([1, 1 + SIZE])
        );
        let folder = tempfile::tempdir().expect("a folder");
        let apart = ranges(&folder, few(false));
        assert!(apart.take(&uid(0)).is_ok() && apart.take(&uid(1)).is_ok());
        assert!(apart.take(&uid(2)).is_err());
    }
}
