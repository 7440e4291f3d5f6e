//! What this instance holds on this machine, and whether the machine can hold anything.

use std::collections::BTreeMap;
use std::fs;
use std::io;

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
                        age_seconds: since.map_or(0, |since| self.seconds_since(since)),
                    });
                }
                Entry::Other => {}
            }
        }
        Ok(found.into_values().collect())
    }

    /// Whether containers can be started here; answers the OCI runtime's version.
    pub(super) fn check(&self) -> Result<String, RuntimeError> {
        if !rustix::process::geteuid().is_root() {
            return Err(RuntimeError::Unavailable(
                "environments are made by root: start the service as root".to_owned(),
            ));
        }
        if self.cgroups.is_empty() {
            return Err(RuntimeError::Unavailable(
                "no cgroups are mounted, so limits cannot be set: mount them at /sys/fs/cgroup"
                    .to_owned(),
            ));
        }
        let namespaces = fs::read_to_string("/proc/sys/user/max_user_namespaces");
        if !namespaces.is_ok_and(|most| most.trim() != "0") {
            return Err(RuntimeError::Unavailable(
                "user namespaces are switched off: sysctl -w user.max_user_namespaces=10000"
                    .to_owned(),
            ));
        }
        let binary = self.program.binary().display();
        self.program.version().map_err(|error| {
            RuntimeError::Unavailable(if error.kind() == io::ErrorKind::NotFound {
                format!("the OCI runtime `{binary}` is not installed: apt-get install runc")
            } else {
                format!("the OCI runtime `{binary}` does not run: {error}")
            })
        })
    }

    fn seconds_since(&self, then: Timestamp) -> u64 {
        let seconds = self.clock.now().as_second() - then.as_second();
        u64::try_from(seconds).unwrap_or_default()
    }
}
