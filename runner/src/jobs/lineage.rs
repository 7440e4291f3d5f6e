//! Which starts of PID 1 the records here are whole for.
//!
//! A record is written before its process exists, and outlives PID 1. It outlives the machine only if it got to the disk,
//! and nothing is synced. So that a job has no record proves that it never began in an earlier incarnation if that one
//! served on this state folder since the machine booted, and not otherwise.
//!
//! ```text
//! boot   BOOT_ID         of the machine; those below began since then
//!        INCARNATION...  one a line, the oldest first
//! ```

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::ids::Incarnation;

/// What Linux calls this run of the machine. Where there is none, nothing is proven.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Incarnations that are kept, the youngest.
const MOST: usize = 256;

/// The incarnations that began since the machine booted.
#[derive(Debug)]
pub(super) struct Lineage {
    path: PathBuf,
    incarnations: Vec<String>,
}

impl Lineage {
    /// Notes an incarnation, which has done nothing yet, and finds those before it. Blocks on the disk.
    pub(super) fn join(state: &Path, incarnation: &Incarnation) -> Self {
        let path = state.join("boot");
        let boot = fs::read_to_string(BOOT_ID).unwrap_or_default();
        let boot = boot.trim();
        let mut incarnations = earlier(&path, boot);
        incarnations.push(incarnation.as_str().to_owned());
        let surplus = incarnations.len().saturating_sub(MOST);
        incarnations.drain(..surplus);
        let mut lineage = Self { path, incarnations };
        if let Err(error) = lineage.write(boot) {
            crate::complain!("em-runner: this start cannot be noted: {error}");
            lineage.end();
        }
        lineage
    }

    /// Whether what has no record here never began in that incarnation.
    pub(super) fn holds(&self, incarnation: &str) -> bool {
        self.incarnations.iter().any(|known| known == incarnation)
    }

    /// Something will be done of which there is no record: later incarnations prove nothing of this one and those before.
    /// Whether that is sure.
    pub(super) fn end(&mut self) -> bool {
        let own = self.incarnations.len().saturating_sub(1);
        self.incarnations.drain(..own);
        match fs::remove_file(&self.path) {
            Ok(()) => true,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    fn write(&self, boot: &str) -> io::Result<()> {
        if boot.is_empty() {
            return Err(io::Error::other(format!("{BOOT_ID} cannot be read")));
        }
        let lines = [boot]
            .into_iter()
            .chain(self.incarnations.iter().map(String::as_str));
        let text: String = lines.flat_map(|line| [line, "\n"]).collect();
        let temporary = self.path.with_extension("new");
        OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?
            .write_all(text.as_bytes())?;
        fs::rename(&temporary, &self.path)
    }
}

fn earlier(path: &Path, boot: &str) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let mut lines = text.lines();
    if boot.is_empty() || lines.next() != Some(boot) {
        return Vec::new();
    }
    lines.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random() -> Incarnation {
        Incarnation::random().unwrap()
    }

    #[test]
    fn those_of_one_boot_add_up_and_stay_bounded() {
        let state = tempfile::tempdir().unwrap();
        let all: Vec<_> = (0..MOST + 2).map(|_| random()).collect();
        let mut last = None;
        for incarnation in &all {
            last = Some(Lineage::join(state.path(), incarnation));
        }
        let last = last.unwrap();
        assert!(!last.holds(all[1].as_str()) && last.holds(all[2].as_str()));
        assert!(last.holds(all[MOST + 1].as_str()) && !last.holds(random().as_str()));
    }

    #[test]
    fn another_boot_and_a_file_that_is_none_prove_nothing() {
        let state = tempfile::tempdir().unwrap();
        for garbage in ["", "another boot\n", "\u{0}"] {
            let (one, next) = (random(), random());
            Lineage::join(state.path(), &one);
            let text = fs::read_to_string(state.path().join("boot")).unwrap();
            let (_, known) = text.split_once('\n').unwrap();
            fs::write(state.path().join("boot"), format!("{garbage}{known}")).unwrap();
            let lineage = Lineage::join(state.path(), &next);
            assert!(
                !lineage.holds(one.as_str()) && lineage.holds(next.as_str()),
                "{garbage}"
            );
        }
    }

    #[test]
    fn what_is_done_without_a_record_ends_it() {
        let state = tempfile::tempdir().unwrap();
        let (one, two, three) = (random(), random(), random());
        Lineage::join(state.path(), &one);
        let mut lineage = Lineage::join(state.path(), &two);
        assert!(lineage.end() && lineage.end());
        assert!(!lineage.holds(one.as_str()) && lineage.holds(two.as_str()));
        let lineage = Lineage::join(state.path(), &three);
        assert!(!lineage.holds(one.as_str()) && !lineage.holds(two.as_str()));
    }
}
