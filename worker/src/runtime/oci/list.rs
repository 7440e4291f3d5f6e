//! What this instance holds on this machine.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use jiff::Timestamp;
use shared::ports::{Holding, RuntimeError};

use super::fault::unavailable;
use super::host::Host;
use super::layout::Entry;
use super::life::Life;

const UNREADABLE: &str = "the folder of environments cannot be read";

impl Host {
    /// Every life of this instance, and what is left of lives that were being made or deleted.
    pub(super) fn list(&self) -> Result<Vec<Holding>, RuntimeError> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(self.layout.folder()).map_err(unavailable(UNREADABLE))? {
            let entry = entry.map_err(unavailable(UNREADABLE))?;
            match self.layout.entry(&entry.file_name().to_string_lossy()) {
                Entry::Life(uid) => {
                    if let Some(life) = self.own(&uid)? {
                        let alive = self.first(&life)?.is_some();
                        let holding = Holding {
                            alive,
                            container: alive,
                            restarts: 0,
                            unreachable: None,
                            age_seconds: self.seconds_since(life.record.created_at),
                            uid: uid.clone(),
                        };
                        found.insert(uid, holding);
                    }
                }
                Entry::Leftover(uid) => {
                    let since = entry.metadata().and_then(|metadata| metadata.modified());
                    let since = since.ok().and_then(|time| Timestamp::try_from(time).ok());
                    found.entry(uid.clone()).or_insert(Holding {
                        uid,
                        alive: false,
                        container: false,
                        restarts: 0,
                        unreachable: None,
                        age_seconds: since.map_or(0, |since| self.seconds_since(since)),
                    });
                }
                // Nobody's: see warm.rs.
                Entry::Ready(_) | Entry::Other => {}
            }
        }
        Ok(found.into_values().collect())
    }

    /// Every life of this instance, and all that it holds ready.
    pub(super) fn all(&self) -> Result<Vec<Life>, RuntimeError> {
        let mut found = Vec::new();
        for entry in self.entries()? {
            let home = match entry {
                Entry::Life(uid) => self.layout.home(&uid),
                Entry::Ready(ready) => self.layout.ready(&ready),
                Entry::Leftover(_) | Entry::Other => continue,
            };
            found.extend(self.life_at(home)?);
        }
        Ok(found)
    }

    /// What is in the folder of all environments.
    pub(super) fn entries(&self) -> Result<Vec<Entry>, RuntimeError> {
        let read = || {
            let entries = fs::read_dir(self.layout.folder())?;
            let entry =
                |entry: fs::DirEntry| self.layout.entry(&entry.file_name().to_string_lossy());
            entries.map(|found| found.map(entry)).collect()
        };
        let entries: io::Result<Vec<Entry>> = read();
        entries.map_err(unavailable(UNREADABLE))
    }

    fn seconds_since(&self, then: Timestamp) -> u64 {
        let seconds = self.clock.now().as_second() - then.as_second();
        u64::try_from(seconds).unwrap_or_default()
    }
}
