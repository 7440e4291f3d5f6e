//! The floors and tombstones on disk: one file that is only appended to, a line per fact.
//!
//! ```text
//! floor ID FENCE        no start of ID below FENCE
//! forgotten ID FENCE    ID was started and forgotten; its floor
//! ```
//! Lines that are not of this form (a torn last one, too) are passed over. A new incarnation refuses all starts that
//! were leased for another, so a lost line lets nothing run twice; it only makes the answer of a seal less exact.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::ids::{Fence, JobId};

/// What is known of an id beyond its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fact {
    pub(crate) floor: Fence,
    pub(crate) forgotten: bool,
}

/// The open file.
#[derive(Debug)]
pub(crate) struct Ledger(File);

impl Ledger {
    /// Opens the ledger in the state folder, making it if it is missing, and reads all facts in it.
    pub(crate) fn open(state: &Path) -> io::Result<(Self, HashMap<JobId, Fact>)> {
        let path = state.join("ledger");
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)?;
        let text = std::fs::read(&path)?;
        if text.last().is_some_and(|byte| *byte != b'\n') {
            // The next line must not continue a torn one.
            file.write_all(b"\n")?;
        }
        Ok((Self(file), parse(&String::from_utf8_lossy(&text))))
    }

    /// Writes a fact down.
    pub(crate) fn note(&mut self, job: &JobId, fact: Fact) -> io::Result<()> {
        let word = if fact.forgotten { "forgotten" } else { "floor" };
        self.0
            .write_all(format!("{word} {job} {}\n", fact.floor.get()).as_bytes())
    }
}

fn parse(text: &str) -> HashMap<JobId, Fact> {
    let mut facts: HashMap<JobId, Fact> = HashMap::new();
    for (job, fact) in text.lines().filter_map(parse_line) {
        let known = facts.entry(job).or_insert(fact);
        known.floor = known.floor.max(fact.floor);
        known.forgotten |= fact.forgotten;
    }
    facts
}

fn parse_line(line: &str) -> Option<(JobId, Fact)> {
    let mut words = line.split(' ');
    let forgotten = match words.next()? {
        "floor" => false,
        "forgotten" => true,
        _ => return None,
    };
    let (job, floor) = (
        JobId::new(words.next()?).ok()?,
        Fence::new(words.next()?.parse().ok()?).ok()?,
    );
    words
        .next()
        .is_none()
        .then_some((job, Fact { floor, forgotten }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_survive_a_torn_end() {
        let state = tempfile::tempdir().unwrap();
        let job = |id| JobId::new(id).unwrap();
        let fact = |floor, forgotten| Fact {
            floor: Fence::new(floor).unwrap(),
            forgotten,
        };
        let (mut ledger, facts) = Ledger::open(state.path()).unwrap();
        assert!(facts.is_empty());
        ledger.note(&job("a"), fact(9, false)).unwrap();
        ledger.note(&job("a"), fact(4, false)).unwrap();
        ledger.note(&job("b"), fact(2, true)).unwrap();
        ledger
            .0
            .write_all(b"nonsense\nfloor c\nfloor d 0\nfloor e 1")
            .unwrap();

        let (mut ledger, _) = Ledger::open(state.path()).unwrap();
        ledger.note(&job("f"), fact(1, false)).unwrap();
        let (_, facts) = Ledger::open(state.path()).unwrap();
        let expected = [
            ("a", fact(9, false)),
            ("b", fact(2, true)),
            ("e", fact(1, false)),
            ("f", fact(1, false)),
        ];
        assert_eq!(facts, expected.map(|(id, fact)| (job(id), fact)).into());
    }
}
