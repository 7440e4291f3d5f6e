//! The images that are there: each in a folder of its digest, complete as soon as it has that name.
//!
//! ```text
//! <data>/images/
//!   sha256-DIGEST/            one image; closed to all but root, since it may hold set-uid programs
//!     image.json              its variables, its user, its size
//!     passwd                  its list of users with the environment's user in it, where it had none
//!     used                    when it was used last
//!     root/                   its tree, owned by host ids that are nobody's
//!   .references/KEY           which image a reference meant when it was fetched
//!   .pulling-KEY/             an image that is being fetched
//!   .removing-DIGEST/         an image that is being removed: never an image again
//! ```

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::super::files;
use super::super::remove::remove_tree;
use super::user::Person;

const IMAGE: &str = "sha256-";
const PULLING: &str = ".pulling-";
const REMOVING: &str = ".removing-";
/// How old a note of the last use may be before it is written anew.
const NOTE_AGE: SignedDuration = SignedDuration::from_mins(10);

/// The digest of an image: other content or other settings are another image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageId(String);

impl ImageId {
    /// Reads `sha256:` and 64 hexadecimal digits.
    pub fn new(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("sha256:")?;
        let good = hex.len() == 64
            && hex
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        good.then(|| Self(hex.to_owned()))
    }

    /// The digits.
    pub(super) fn hex(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl TryFrom<String> for ImageId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text).ok_or("no SHA-256 digest")
    }
}

impl From<ImageId> for String {
    fn from(id: ImageId) -> Self {
        id.to_string()
    }
}

/// What `image.json` says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in super::super) struct Image {
    /// Its digest.
    pub(in super::super) id: ImageId,
    /// `NAME=value` each.
    pub(in super::super) env: Vec<String>,
    /// Who runs commands.
    pub(in super::super) user: Person,
    /// Bytes on disk.
    pub(super) bytes: u64,
    /// When it was fetched.
    pub(super) fetched_at: Timestamp,
}

/// What a reference meant when it was fetched last.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Meaning {
    /// In full.
    pub(super) reference: String,
    /// The image.
    pub(super) image: ImageId,
    /// When it was fetched.
    pub(super) fetched_at: Timestamp,
}

/// The folder of images.
#[derive(Debug, Clone)]
pub(super) struct Shelf {
    folder: PathBuf,
}

impl Shelf {
    /// Makes what is missing of it.
    pub(super) fn open(folder: PathBuf) -> io::Result<Self> {
        let shelf = Self { folder };
        files::folder(&shelf.references(), 0o700)?;
        Ok(shelf)
    }

    pub(super) fn place(&self, id: &ImageId) -> PathBuf {
        self.folder.join(format!("{IMAGE}{}", id.hex()))
    }

    /// The tree of an image.
    pub(super) fn root(&self, id: &ImageId) -> PathBuf {
        self.place(id).join("root")
    }

    /// The image's list of users, where it needs another than its own.
    pub(super) fn passwd(&self, id: &ImageId) -> Option<PathBuf> {
        Some(self.place(id).join("passwd")).filter(|path| path.is_file())
    }

    pub(super) fn pulling(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{PULLING}{key}"))
    }

    fn references(&self) -> PathBuf {
        self.folder.join(".references")
    }

    /// The image of that digest, if it is there.
    pub(super) fn image(&self, id: &ImageId) -> io::Result<Option<Image>> {
        document(&self.place(id).join("image.json"))
    }

    /// Every image, with the time of its last use.
    pub(super) fn images(&self) -> io::Result<Vec<(Image, Timestamp)>> {
        let mut found = Vec::new();
        for name in self.names()? {
            let id = name
                .strip_prefix(IMAGE)
                .and_then(|hex| ImageId::new(&format!("sha256:{hex}")));
            if let Some(id) = id
                && let Some(image) = self.image(&id)?
            {
                let used = self.used(&image);
                found.push((image, used));
            }
        }
        Ok(found)
    }

    /// Every reference that means an image.
    pub(super) fn meanings(&self) -> io::Result<Vec<Meaning>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.references())? {
            found.extend(document::<Meaning>(&entry?.path())?);
        }
        Ok(found)
    }

    /// What the reference of that key means, if its image is there.
    pub(super) fn meaning(&self, key: &str) -> io::Result<Option<Image>> {
        match document::<Meaning>(&self.references().join(key))? {
            Some(meaning) => self.image(&meaning.image),
            None => Ok(None),
        }
    }

    pub(super) fn set_meaning(&self, key: &str, meaning: &Meaning) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(meaning)?;
        files::write_whole(&self.references().join(key), &bytes, 0o600)
    }

    /// Notes that an image is in use.
    pub(super) fn note_use(&self, image: &Image, now: Timestamp) -> io::Result<()> {
        if now.duration_since(self.used(image)) < NOTE_AGE {
            return Ok(());
        }
        let note = self.place(&image.id).join("used");
        files::write_whole(&note, now.to_string().as_bytes(), 0o600)
    }

    fn used(&self, image: &Image) -> Timestamp {
        fs::read_to_string(self.place(&image.id).join("used"))
            .ok()
            .and_then(|text| Timestamp::from_str(text.trim()).ok())
            .unwrap_or(image.fetched_at)
    }

    /// Removes an image: at once from its name, then from the disk.
    pub(super) fn remove(&self, id: &ImageId) -> io::Result<()> {
        let removing = self.folder.join(format!("{REMOVING}{}", id.hex()));
        remove_tree(&removing)?;
        files::absent(fs::rename(self.place(id), &removing))?;
        remove_tree(&removing)?;
        for entry in fs::read_dir(self.references())? {
            let path = entry?.path();
            if document::<Meaning>(&path)?.is_some_and(|meaning| meaning.image == *id) {
                files::absent(fs::remove_file(path))?;
            }
        }
        Ok(())
    }

    /// Finishes removals that were interrupted; answers the keys of pulls that may have been.
    pub(super) fn leftovers(&self) -> io::Result<Vec<String>> {
        let mut keys = Vec::new();
        for name in self.names()? {
            if name.starts_with(REMOVING) {
                remove_tree(&self.folder.join(name))?;
            } else if let Some(key) = name.strip_prefix(PULLING) {
                keys.push(key.to_owned());
            }
        }
        Ok(keys)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(&self.folder)?;
        entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }
}

/// A document of this service's own; nothing where there is none that can be read.
fn document<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
