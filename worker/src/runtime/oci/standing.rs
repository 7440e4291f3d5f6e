//! What this process is on the machine: root, or root of a user namespace that an ordinary user made.
//!
//! ```text
//!                 root of the machine             ordinary user U, in a namespace of his own
//!  users          all                             0 is U, 1… are his subordinate ids
//!  environments   ranges from 1,048,576 on        one range of the subordinate ids, or several if he has as many
//!  limits         cgroups                         rlimits; what they cannot do is reported
//!  PID 1 is known by its cgroup                   by its volume
//! ```
//!
//! In a namespace this process may do to its own files, processes and mounts all that root may do on the machine, and
//! nothing beyond them; so the rest of the adapter does not ask which of the two it is.

use std::fs;
use std::io;

use super::ranges::{self, Ids};

/// What this process may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Root of the machine.
    Root,
    /// Root of a user namespace with ids 1 to this number beside it.
    Namespace(u32),
    /// Neither: no environment can be made.
    Powerless,
}

impl Standing {
    /// This process's.
    pub fn of_this_process() -> io::Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Powerless);
        }
        let users = fs::read_to_string("/proc/self/uid_map")?;
        let groups = fs::read_to_string("/proc/self/gid_map")?;
        Ok(match (mapped(&users), mapped(&groups)) {
            (u32::MAX, u32::MAX) => Self::Root,
            (users, groups) => Self::Namespace(users.min(groups).saturating_sub(1)),
        })
    }

    /// Whether it is in a user namespace.
    pub fn is_namespace(self) -> bool {
        matches!(self, Self::Namespace(_))
    }

    /// The ids that environments may have.
    pub(super) fn ids(self) -> Ids {
        match self {
            Self::Namespace(count) => Ids {
                first: 1,
                slots: (count / ranges::SIZE).max(1),
                shared: true,
            },
            Self::Root | Self::Powerless => Ids::of_the_machine(),
        }
    }

    /// The first of the ids that the files of images have on disk. In a namespace they are those of the environments,
    /// since it may not show files as those of others.
    pub(super) fn image_ids(self) -> u32 {
        match self {
            Self::Namespace(_) => self.ids().first,
            Self::Root | Self::Powerless => ranges::IMAGES,
        }
    }
}

/// How many ids from 0 on without a gap a namespace has.
fn mapped(map: &str) -> u32 {
    let mut extents: Vec<(u32, u32)> = map
        .lines()
        .filter_map(|line| {
            let mut numbers = line.split_whitespace().map(str::parse);
            match (numbers.next(), numbers.next(), numbers.next()) {
                (Some(Ok(inside)), Some(Ok(_)), Some(Ok(count))) => Some((inside, count)),
                _ => None,
            }
        })
        .collect();
    extents.sort_unstable();
    extents
        .iter()
        .fold(0, |next, (inside, count): &(u32, u32)| {
            if *inside == next {
                next.saturating_add(*count)
            } else {
                next
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_counted_up_to_the_first_gap() {
        assert_eq!(mapped("         0          0 4294967295\n"), u32::MAX);
        assert_eq!(mapped("0 1000 1\n1 100000 65536\n"), 65537);
        assert_eq!(mapped("1 100000 65536\n0 1000 1\n65537 9 3\n"), 65540);
        assert_eq!(mapped("0 1000 1\n2 100000 65536\n"), 1);
        assert_eq!(mapped("1 1000 1\nx\n"), 0);
    }

    #[test]
    fn environments_of_a_namespace_have_only_its_ids() {
        for (count, slots) in [(65_536, 1), (131_071, 1), (131_072, 2), (10, 1)] {
            let ids = Standing::Namespace(count).ids();
            assert_eq!(
                (ids.first, ids.slots, ids.shared),
                (1, slots, true),
                "{count}"
            );
        }
        assert!(!Standing::Root.ids().shared);
    }
}
