//! Which host users an environment's users are.
//!
//! Every life has 65,536 host uids (and the gids of the same numbers) of its own, so that root in one environment is
//! nobody on the machine and nobody in any other environment. A range is taken by making a file in `.ranges`, under a
//! lock that all workers of the folder share, and given back when nothing that belongs to it is left on disk.
//! Instances begin their search at different places, so that two installations on one machine seldom share a range.

use std::collections::BTreeSet;
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
/// Number of ranges: all below 2^31, since some programs take uids for signed numbers.
const SLOTS: u32 = ((1 << 31) - FIRST) / SIZE;

/// The ranges that are taken, a folder.
#[derive(Debug)]
pub(super) struct Ranges {
    folder: PathBuf,
    locks: PathBuf,
    instance: InstanceId,
}

impl Ranges {
    pub(super) fn new(folder: PathBuf, locks: PathBuf, instance: InstanceId) -> Self {
        Self {
            folder,
            locks,
            instance,
        }
    }

    /// The first host uid of the life's range, which is taken for it if it has none yet.
    pub(super) fn take(&self, uid: &EnvironmentUid) -> io::Result<u32> {
        let _lock = Lock::take(&self.locks, "ranges")?;
        let mut taken = BTreeSet::new();
        for (slot, owner) in self.entries()? {
            if owner == self.owner(uid) {
                return Ok(first_of(slot));
            }
            taken.insert(slot);
        }
        let begin = begin_of(&self.instance);
        let free = (0..SLOTS)
            .map(|step| (begin + step) % SLOTS)
            .find(|slot| !taken.contains(slot))
            .ok_or_else(|| io::Error::other("every range of host uids is taken"))?;
        File::create_new(self.folder.join(format!("{free}.{}", self.owner(uid))))?;
        Ok(first_of(free))
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

fn first_of(slot: u32) -> u32 {
    FIRST + slot * SIZE
}

fn begin_of(instance: &InstanceId) -> u32 {
    let hash = Sha256::digest(instance.as_str());
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]) % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(number: u32) -> EnvironmentUid {
        let letters: String = format!("{number:010}")
            .chars()
            .map(|digit| char::from(b'a' + (digit as u8 - b'0')))
            .collect();
        EnvironmentUid::new(letters).expect("a uid")
    }

    #[test]
    fn ranges_are_apart_kept_and_given_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let (ranges, locks) = (folder.path().join("ranges"), folder.path().join("locks"));
        fs::create_dir(&ranges).expect("made");
        fs::create_dir(&locks).expect("made");
        let instance = InstanceId::from_random([3; 16]);
        let ranges = Ranges::new(ranges, locks, instance);
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
    }
}
