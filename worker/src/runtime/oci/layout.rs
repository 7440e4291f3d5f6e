//! Where everything of an environment lies, named from its uid alone. (Only what was held ready before it was an
//! environment has a container and a range of the name that it was born with: see record.rs.)
//!
//! ```text
//! <data>/bin/em-runner-HASH            the runner, bind-mounted read-only into each environment
//! <data>/images/host-HASH/             the skeleton of the image `host`
//! <data>/images/sha256-…, .…           other images: see image/shelf.rs
//! <data>/environments/                 the folder of the settings
//!   UID/                               one life, complete as soon as it has this name
//!     environment.json                 whose it is
//!     image.json                       which image it stands on, where that is not `host`
//!     volume/                          /app
//!     layer/                           what was written on top of the image since the last start
//!     runner/                          /.em/state
//!     bundle/config.json               what the OCI runtime is told
//!     bundle/pid                       made by the OCI runtime when PID 1 runs
//!     bundle/ending                    there once PID 1 was asked to end
//!     bundle/boot                      which start of the machine PID 1 runs in
//!     bundle/known-addresses           the machine's addresses as the rules of its network know them
//!     bundle/network-hold              what of its network's helper PID 1 holds
//!     runner.sock                      where PID 1 listens, if its kernel is the machine's
//!     runner/runner.sock               where it does if its kernel is its own
//!     runner.log                       what PID 1 and the OCI runtime said since the last start
//!   .making-INSTANCE-UID/              a life that is being made: removed and begun anew
//!   .deleting-INSTANCE-UID/            a life that is being deleted: never a life again
//!   .ready-INSTANCE-SHAPE-NAME/        nobody's yet: as a life, see warm.rs
//!   .locks/UID                         held while something is done to the life
//!   .locks/image-KEY                   held while an image is fetched
//!   .ranges/SLOT.UID.INSTANCE          which range of host uids is whose
//!   .runc/                             the OCI runtime's own state
//! ```

use std::path::{Path, PathBuf};

use shared::ids::{EnvironmentUid, InstanceId};

use super::socket::Sockets;

/// Beginning of the name of a life that is being made.
const MAKING: &str = ".making-";
/// Beginning of the name of a life that is being deleted.
const DELETING: &str = ".deleting-";
/// Beginning of the name of what is held ready.
const READY: &str = ".ready-";

/// Name of the folder of locks.
pub(super) const LOCKS: &str = ".locks";

/// The shared folders.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    folder: PathBuf,
    data: PathBuf,
    instance: InstanceId,
}

/// The places of one life.
#[derive(Debug, Clone)]
pub(super) struct Home {
    folder: PathBuf,
}

/// What is held ready, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ready {
    /// All in which it may differ from others.
    pub(super) shape: String,
    /// What it is born with.
    pub(super) name: EnvironmentUid,
}

/// What an entry of the folder of all environments is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// A life; whose it is stands in its record.
    Life(EnvironmentUid),
    /// What is left of a life of this instance that was being made or deleted.
    Leftover(EnvironmentUid),
    /// What this instance holds ready, whole or not.
    Ready(Ready),
    /// Not a life, or none of this instance.
    Other,
}

/// The name of the lock of an entry in which a PID 1 may live, of whatever instance: of a life, or of what is held ready.
pub(super) fn lock_of(entry: &str) -> Option<EnvironmentUid> {
    let name = match entry.strip_prefix(READY) {
        Some(rest) => rest.rsplit_once('-')?.1,
        None => entry,
    };
    EnvironmentUid::new(name).ok()
}

impl Layout {
    /// `folder` is absolute and has a parent.
    pub(super) fn new(folder: PathBuf, instance: InstanceId) -> Self {
        let data = folder.parent().unwrap_or(&folder).to_owned();
        Self {
            folder,
            data,
            instance,
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn instance(&self) -> &InstanceId {
        &self.instance
    }

    pub(super) fn programs(&self) -> PathBuf {
        self.data.join("bin")
    }

    pub(super) fn data(&self) -> &Path {
        &self.data
    }

    pub(super) fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    pub(super) fn locks(&self) -> PathBuf {
        self.folder.join(LOCKS)
    }

    pub(super) fn ranges(&self) -> PathBuf {
        self.folder.join(".ranges")
    }

    pub(super) fn runtime_state(&self) -> PathBuf {
        self.folder.join(".runc")
    }

    pub(super) fn home(&self, uid: &EnvironmentUid) -> Home {
        Home {
            folder: self.folder.join(uid.as_str()),
        }
    }

    pub(super) fn making(&self, uid: &EnvironmentUid) -> Home {
        Home {
            folder: self.folder.join(format!("{MAKING}{}-{uid}", self.instance)),
        }
    }

    pub(super) fn deleting(&self, uid: &EnvironmentUid) -> PathBuf {
        self.folder
            .join(format!("{DELETING}{}-{uid}", self.instance))
    }

    /// Where something of a shape is held ready.
    pub(super) fn ready(&self, ready: &Ready) -> Home {
        let Ready { shape, name } = ready;
        Home {
            folder: self
                .folder
                .join(format!("{READY}{}-{shape}-{name}", self.instance)),
        }
    }

    /// Reads the name of an entry of the folder of all environments.
    pub(super) fn entry(&self, name: &str) -> Entry {
        if let Ok(uid) = EnvironmentUid::new(name) {
            return Entry::Life(uid);
        }
        let of = |begin| self.own_rest(name, begin);
        let leftover = of(DELETING).or_else(|| of(MAKING));
        let leftover = leftover.and_then(|uid| EnvironmentUid::new(uid).ok());
        let ready = || {
            let (shape, name) = of(READY)?.split_once('-')?;
            Some(Ready {
                shape: shape.to_owned(),
                name: EnvironmentUid::new(name).ok()?,
            })
        };
        leftover
            .map(Entry::Leftover)
            .or_else(|| ready().map(Entry::Ready))
            .unwrap_or(Entry::Other)
    }

    /// What follows this beginning and the instance's name.
    fn own_rest<'a>(&self, name: &'a str, begin: &str) -> Option<&'a str> {
        name.strip_prefix(begin)?
            .strip_prefix(self.instance.as_str())?
            .strip_prefix('-')
    }
}

impl Home {
    /// The places of the life in this folder.
    pub(super) fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn record(&self) -> PathBuf {
        self.folder.join("environment.json")
    }

    pub(super) fn volume(&self) -> PathBuf {
        self.folder.join("volume")
    }

    pub(super) fn runner_state(&self) -> PathBuf {
        self.folder.join("runner")
    }

    pub(super) fn sockets(&self) -> Sockets {
        Sockets {
            given: self.folder.clone(),
            own: self.runner_state(),
        }
    }

    pub(super) fn bundle(&self) -> PathBuf {
        self.folder.join("bundle")
    }

    /// What the rules of its network know of the machine's addresses; there where it has one.
    pub(super) fn known_addresses(&self) -> PathBuf {
        self.bundle().join("known-addresses")
    }

    /// What of its network's helper PID 1 holds; there where it has one.
    pub(super) fn network_hold(&self) -> PathBuf {
        self.bundle().join("network-hold")
    }

    pub(super) fn network_log(&self) -> PathBuf {
        self.bundle().join("network.log")
    }

    pub(super) fn pid_file(&self) -> PathBuf {
        self.bundle().join("pid")
    }

    /// There while PID 1 has been asked to end: then it is not worth keeping.
    pub(super) fn ending(&self) -> PathBuf {
        self.bundle().join("ending")
    }

    /// Names the start of the machine in which the container was started.
    pub(super) fn boot(&self) -> PathBuf {
        self.bundle().join("boot")
    }

    /// What was written outside the volume since the last start, on top of the image.
    pub(super) fn layer(&self) -> PathBuf {
        self.folder.join("layer")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("runner.log")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lives_and_own_leftovers_are_recognised() {
        let instance = InstanceId::from_random([1; 16]);
        let foreign = InstanceId::from_random([2; 16]);
        let uid = EnvironmentUid::new("abcdefghij").expect("a uid");
        let layout = Layout::new("/data/environments".into(), instance.clone());
        assert_eq!(layout.entry("abcdefghij"), Entry::Life(uid.clone()));
        for own in [".deleting-", ".making-"].map(|begin| format!("{begin}{instance}-{uid}")) {
            assert_eq!(layout.entry(&own), Entry::Leftover(uid.clone()), "{own}");
        }
        let ready = Ready {
            shape: "abc234".to_owned(),
            name: uid.clone(),
        };
        let folder = layout.ready(&ready).folder().to_owned();
        let name = folder.file_name().and_then(|name| name.to_str());
        assert_eq!(
            name.map(|name| layout.entry(name)),
            Some(Entry::Ready(ready))
        );
        for living in [
            uid.to_string(),
            format!(".ready-{instance}-abc234-{uid}"),
            format!(".ready-{foreign}-abc234-{uid}"),
        ] {
            assert_eq!(lock_of(&living), Some(uid.clone()), "{living}");
        }
        for none in [".locks", ".ready-", ".making-abcdefghij", "abcdefghi"] {
            assert_eq!(lock_of(none), None, "{none}");
        }
        for other in [
            format!(".ready-{foreign}-abc234-{uid}"),
            format!(".ready-{instance}-abc234"),
            format!(".deleting-{foreign}-{uid}"),
            format!(".making-{foreign}-{uid}"),
            ".locks".to_owned(),
            "abcdefghi".to_owned(),
            "ABCDEFGHIJ".to_owned(),
        ] {
            assert_eq!(layout.entry(&other), Entry::Other, "{other}");
        }
        assert!(
            layout
                .deleting(&uid)
                .ends_with(format!(".deleting-{instance}-{uid}"))
        );
    }
}
