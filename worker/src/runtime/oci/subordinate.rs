//! The ids that the machine gives to an ordinary user beside his own: `/etc/subuid` and `/etc/subgid`.

use std::fs;
use std::io;
use std::path::Path;

use nix::unistd::{Uid, User};

/// A range of ids of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u32,
    pub(super) count: u32,
}

/// The ranges of this process's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subordinate {
    /// How the user is called, for advice.
    pub(super) user: String,
    pub(super) uids: Vec<Range>,
    pub(super) gids: Vec<Range>,
}

impl Subordinate {
    /// Reads them. None of either kind is no error here.
    pub(super) fn of_this_user() -> io::Result<Self> {
        let uid = Uid::effective();
        let name = User::from_uid(uid)?.map(|user| user.name);
        let names = [name.clone(), Some(uid.to_string())];
        let read = |path: &str| -> io::Result<Vec<Range>> {
            match fs::read_to_string(Path::new(path)) {
                Ok(text) => Ok(ranges_of(&text, &names)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
                Err(error) => Err(error),
            }
        };
        Ok(Self {
            user: name.unwrap_or_else(|| uid.to_string()),
            uids: read("/etc/subuid")?,
            gids: read("/etc/subgid")?,
        })
    }

    /// How many there are of the kind of which there are fewer.
    pub(super) fn count(&self) -> u32 {
        count(&self.uids).min(count(&self.gids))
    }
}

/// What `newuidmap` and `newgidmap` are told: 0 is the user's own id, the subordinate ones follow without a gap.
pub(super) fn map(own: u32, ranges: &[Range]) -> Vec<String> {
    let mut numbers = vec![0, own, 1];
    let mut next = 1_u32;
    for range in ranges {
        numbers.extend([next, range.first, range.count]);
        next = next.saturating_add(range.count);
    }
    numbers.iter().map(ToString::to_string).collect()
}

fn count(ranges: &[Range]) -> u32 {
    ranges
        .iter()
        .fold(0, |count, range| count.saturating_add(range.count))
}

/// The ranges of a user, whose lines begin with his name or his number.
fn ranges_of(text: &str, names: &[Option<String>]) -> Vec<Range> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let owner = fields.next()?;
            names
                .iter()
                .flatten()
                .any(|name| name == owner)
                .then_some(())?;
            Some(Range {
                first: fields.next()?.parse().ok()?,
                count: fields.next()?.parse().ok().filter(|count| *count > 0)?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_users_own_ranges_count() {
        let text = "ada:100000:65536\nadam:1:2\n1001:200000:10\nada:x:1\nada:300000:0\n# ada:1:1\n";
        let names = [Some("ada".to_owned()), Some("1001".to_owned())];
        let found = ranges_of(text, &names);
        assert_eq!(
            map(1001, &found).join(" "),
            "0 1001 1 1 100000 65536 65537 200000 10"
        );
        assert_eq!(count(&found), 65546);
        assert_eq!(count(&ranges_of(text, &[None])), 0);
    }
}
