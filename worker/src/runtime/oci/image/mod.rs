//! Images that are not this machine's own: fetched once, kept by digest, shared by all environments.
//!
//! ```text
//!  reference ──▶ source ──▶ pull (tool, manifest, user, measure) ──▶ shelf ──▶ tree of an environment (tree.rs)
//!  what a caller  what the   skopeo, then umoci as nobody             by digest
//!  wrote          settings
//!                 allow
//! ```
//!
//! Invariants:
//! - One pull of a reference at a time, whatever asks for it and from whichever process; the others wait for it.
//! - An image is there whole or not at all. What an interrupted pull leaves is removed by whoever comes next.
//! - An image that an environment's folder names is not removed.
//! - A reference is looked up once: it means the same image until somebody pulls it anew, or the image expired. A file
//!   or folder of this machine is looked at each time.

mod manifest;
mod measure;
mod prune;
mod pull;
mod reference;
mod shelf;
mod source;
mod tool;
mod user;

use std::collections::HashMap;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use shared::clock::Clock;
use shared::config::ImageSettings;

use super::files;
use super::lock::Lock;
use super::standing::Standing;
use measure::measure;
use pull::Pull;
use reference::Reference;
use shelf::{Meaning, Shelf};
use source::Source;

use crate::failpoint::failpoint;

pub(super) use pull::PROGRAMS;
pub use pull::{Progress, PullError};
pub(super) use shelf::Image;
pub use shelf::ImageId;
pub(super) use user::Person;

/// How often somebody who waits for another's pull looks again.
const LOOK: Duration = Duration::from_millis(100);
/// How long the failure of a pull is remembered for those who waited for it.
const REMEMBERED: Duration = Duration::from_mins(30);
/// The lock that is held while images appear in, or go from, use.
const LOCK: &str = "images";

/// The images of a data folder.
pub struct Images {
    shelf: Shelf,
    settings: ImageSettings,
    /// The folder of all environments.
    environments: PathBuf,
    locks: PathBuf,
    standing: Standing,
    clock: Arc<dyn Clock>,
    failures: Mutex<HashMap<String, (Instant, String)>>,
}

/// An image as a list of images shows it.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its digest.
    pub id: ImageId,
    /// Bytes on disk.
    pub bytes: u64,
    /// When it was fetched.
    pub fetched_at: Timestamp,
    /// When it was used last.
    pub used_at: Timestamp,
    /// Whether an environment stands on it.
    pub in_use: bool,
    /// What means it.
    pub references: Vec<String>,
}

impl Images {
    /// Opens the images of a data folder. What is not there yet of it is made, for its owner alone.
    pub fn open(data: &Path, settings: ImageSettings, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let (environments, folder) = (data.join("environments"), data.join("images"));
        let locks = environments.join(".locks");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&locks)?;
        files::folder(&folder, 0o755)?;
        Ok(Self {
            shelf: Shelf::open(folder)?,
            settings,
            locks,
            environments,
            standing: Standing::of_this_process()?,
            clock,
            failures: Mutex::default(),
        })
    }

    /// The image that a reference means, if it is there. Nothing is asked over the network.
    pub(super) fn find(&self, text: &str) -> Result<Option<Image>, PullError> {
        let (reference, source) = self.source(text)?;
        self.shelf
            .meaning(&key_of(&reference, &source))
            .map_err(PullError::Here)
    }

    /// The image of that digest, if it is there.
    pub(super) fn image(&self, id: &ImageId) -> io::Result<Option<Image>> {
        self.shelf.image(id)
    }

    /// The tree of an image.
    pub(super) fn root(&self, id: &ImageId) -> PathBuf {
        self.shelf.root(id)
    }

    /// The list of users that an environment of the image gets instead of the image's own.
    pub(super) fn passwd(&self, id: &ImageId) -> Option<PathBuf> {
        self.shelf.passwd(id)
    }

    /// Notes that an image is in use.
    pub(super) fn note_use(&self, image: &Image) -> io::Result<()> {
        self.shelf.note_use(image, self.clock.now())
    }

    /// While it is held, no image is removed.
    pub(super) fn hold(&self) -> io::Result<Lock> {
        Lock::take(&self.locks, LOCK)
    }

    /// The image that a reference means, fetched if it is not there or, with `anew`, in any case. Blocks until then;
    /// `hear` is told every moment how far it is, and ends it with an error. To be called on a thread of its own.
    pub fn fetch(
        &self,
        text: &str,
        anew: bool,
        mut hear: impl FnMut(Progress) -> Result<(), PullError>,
    ) -> Result<ImageId, PullError> {
        let began = Instant::now();
        let (reference, source) = self.source(text)?;
        let key = key_of(&reference, &source);
        let found = |key: &str| self.shelf.meaning(key).map_err(PullError::Here);
        if !anew && let Some(image) = found(&key)? {
            return Ok(image.id);
        }
        let lock = self.wait(&key, &mut hear)?;
        let ended = match found(&key)? {
            // Whoever held the lock has fetched it.
            Some(image) if !anew => Ok(image),
            _ => match self.failed_since(&key, began) {
                Some(why) => Err(PullError::Refused(why)),
                None => self.pull(&reference, source, &key, &lock, &mut hear),
            },
        };
        lock.retire().map_err(PullError::Here)?;
        ended.map(|image| image.id)
    }

    fn source(&self, text: &str) -> Result<(Reference, Source), PullError> {
        let reference = Reference::parse(text).map_err(PullError::Refused)?;
        let source = Source::open(&reference, &self.settings)?;
        Ok((reference, source))
    }

    fn pull(
        &self,
        reference: &Reference,
        source: Source,
        key: &str,
        lock: &Lock,
        hear: &mut dyn FnMut(Progress) -> Result<(), PullError>,
    ) -> Result<Image, PullError> {
        let pull = Pull {
            shelf: &self.shelf,
            settings: &self.settings,
            folder: self.shelf.pulling(key),
            ids: self.standing.image_ids(),
            lock: lock.share().map_err(PullError::Here)?,
            hear,
            now: self.clock.now(),
        };
        let pulled = pull.run(source);
        match &pulled {
            Ok(image) => {
                failpoint("image_shelved");
                let meaning = Meaning {
                    reference: reference.to_string(),
                    image: image.id.clone(),
                    fetched_at: self.clock.now(),
                };
                let noted = self.shelf.set_meaning(key, &meaning);
                noted.map_err(PullError::Here)?;
            }
            Err(PullError::Refused(why)) => self.remember_failure(key, why),
            Err(_) => {}
        }
        pulled
    }

    /// Waits until nobody else pulls the same, and passes on how far he is.
    fn wait(
        &self,
        key: &str,
        hear: &mut impl FnMut(Progress) -> Result<(), PullError>,
    ) -> Result<Lock, PullError> {
        loop {
            let lock = Lock::try_take(&self.locks, &lock_of(key)).map_err(PullError::Here)?;
            if let Some(lock) = lock {
                return Ok(lock);
            }
            let size = measure(&self.shelf.pulling(key)).map_err(PullError::Here)?;
            hear(Progress::Fetching(size.bytes))?;
            std::thread::sleep(LOOK);
        }
    }

    fn remember_failure(&self, key: &str, why: &str) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.retain(|_, (at, _)| at.elapsed() < REMEMBERED);
        failures.insert(key.to_owned(), (Instant::now(), why.to_owned()));
    }

    /// Why a pull failed that ended after `began`.
    fn failed_since(&self, key: &str, began: Instant) -> Option<String> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, why) = failures.get(key).filter(|(at, _)| *at >= began)?;
        Some(why.clone())
    }
}

/// Names a reference and what it leads to now.
fn key_of(reference: &Reference, source: &Source) -> String {
    let hash = Sha256::digest(format!("{reference}\n{}", source.stamp));
    hash.iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn lock_of(key: &str) -> String {
    format!("image-{key}")
}
