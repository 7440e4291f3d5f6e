//! What this instance holds on this machine.

use std::collections::BTreeMap;
use std::fs;

use jiff::Timestamp;
use shared::ports::{Holding, RuntimeError};

use super::fault::unavailable;
use super::host::Host;
use super::layout::Entry;

impl Host {
    /// Every life of this instance, and what is left of lives that were being made or deleted.
    pub(super) fn list(&self) -> Result<Vec<Holding>, RuntimeError> {
        let unreadable = "the folder of environments cannot be read";
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(self.layout.folder()).map_err(unavailable(unreadable))? {
            let entry = entry.map_err(unavailable(unreadable))?;
            match self.layout.entry(&entry.file_name().to_string_lossy()) {
                Entry::Life(uid) => {
                    if let Some(record) = self.own(&uid)? {
                        let holding = Holding {
                            alive: self.first(&uid)?.is_some(),
                            restarts: 0,
                            age_seconds: self.seconds_since(record.created_at),
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
                        restarts: 0,
                        age_seconds: since.map_or(0, |since| self.seconds_since(since)),
                    });
                }
                Entry::Other => {}
            }
        }
        Ok(found.into_values().collect())
    }

    fn seconds_since(&self, then: Timestamp) -> u64 {
        let seconds = self.clock.now().as_second() - then.as_second();
        u64::try_from(seconds).unwrap_or_default()
    }
}
