//! One pull: from a source to an image on the shelf, or nothing.
//!
//! ```text
//!   skopeo copy ──▶ .pulling-KEY/layout     fetched: digests checked, sizes watched
//!   umoci unpack ─▶ .pulling-KEY/image/root  as nobody, without a network, in mounts of its own
//!   rename ───────▶ sha256-DIGEST            after all of it is on the disk
//! ```
//!
//! The layers are hostile input. They are unpacked by a program that is nobody on the machine, cannot reach it over the
//! network, and finds nothing but the layers and an empty folder. Device nodes become empty files; a set-uid program
//! belongs to a user that does not exist, and is mounted so that it gives nothing.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::syncfs;
use shared::room;

use super::super::launch::last_words;
use super::super::program::is_installed;
use super::super::remove::remove_tree;
use super::super::stage::{STAGE, own_mounts};
use super::super::userns::IdMap;
use super::super::{files, ranges};
use super::ImageSettings;
use super::manifest::Description;
use super::measure::{Size, measure};
use super::shelf::{Image, ImageId, Shelf};
use super::source::Source;
use super::tool::Place;
use super::user::Person;
use crate::failpoint::failpoint;

const FETCH: &str = "skopeo";
const UNPACK: &str = "umoci";
/// The programs that are needed; each is in a package of its name.
pub(in super::super) const PROGRAMS: [&str; 2] = [FETCH, UNPACK];
/// Without it the fetching program refuses to work; a machine that has one may demand signatures.
const POLICY: &str = "/etc/containers/policy.json";
/// The most files and folders of an image.
const MOST_ENTRIES: u64 = 2_000_000;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// It cannot be had: not allowed, not there, or not what can be used.
    #[error("{0}")]
    Refused(String),
    /// A program ended without success; its own words are in its log.
    #[error("a program failed")]
    Failed,
    /// Nobody waits for it any more.
    #[error("the pull was given up")]
    Stopped,
    /// A program that is needed is not installed.
    #[error("images need {0}: apt-get install {0}")]
    NotInstalled(&'static str),
    /// The disk of the images has hardly any room left.
    #[error(
        "the disk of the images has hardly any room left: make some, or remove images (`environment-manager image prune`)"
    )]
    NoRoom,
    /// This machine could not do its part for now.
    #[error("this machine could not do it: {0}")]
    Here(#[source] io::Error),
}

impl PullError {
    pub(super) fn refused(why: impl Into<String>) -> Self {
        Self::Refused(why.into())
    }
}

/// How far a pull is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// So many bytes were fetched.
    Fetching(u64),
    /// So many bytes were unpacked.
    Unpacking(u64),
}

/// What a pull works with.
pub(super) struct Pull<'a> {
    pub(super) shelf: &'a Shelf,
    pub(super) settings: &'a ImageSettings,
    pub(super) folder: PathBuf,
    /// The first of the ids that its files get on disk.
    pub(super) ids: u32,
    pub(super) lock: OwnedFd,
    /// Hears how far it is; ends it with an error.
    pub(super) hear: &'a mut dyn FnMut(Progress) -> Result<(), PullError>,
    pub(super) now: jiff::Timestamp,
}

impl Pull<'_> {
    /// Fetches and unpacks. Whatever comes of it, nothing half-done is left. The calling thread gets mounts of its own,
    /// and must be one that ends after this.
    pub(super) fn run(mut self, source: Source) -> Result<Image, PullError> {
        let ended = self.begin().and_then(|()| {
            self.fetch(source)?;
            let description = Description::read(&self.layout())?;
            self.keep(description)
        });
        let ended = ended.map_err(|error| match error {
            PullError::Here(here) if is_full(&here) => PullError::NoRoom,
            other => other,
        });
        let removed = remove_tree(&self.folder).map_err(PullError::Here);
        let image = ended?;
        removed?;
        Ok(image)
    }

    fn layout(&self) -> PathBuf {
        self.folder.join("layout")
    }

    fn begin(&self) -> Result<(), PullError> {
        for program in PROGRAMS {
            if !is_installed(program) {
                return Err(PullError::NotInstalled(program));
            }
        }
        remove_tree(&self.folder)
            .and_then(|()| files::folder(&self.folder, 0o711))
            .and_then(|()| files::folder(&self.folder.join("tmp"), 0o700))
            .map_err(PullError::Here)
    }

    fn fetch(&mut self, source: Source) -> Result<(), PullError> {
        let mut program = vec![FETCH, "--tmpdir", "tmp"];
        if !Path::new(POLICY).exists() {
            program.push("--insecure-policy");
        }
        let verify = format!("--src-tls-verify={}", !source.plain_http);
        let shared = ["--quiet", "--retry-times=2"];
        program.extend(["copy"].iter().chain(&shared));
        program.push(&verify);
        let auth = Some(&self.settings.auth_file).filter(|file| !file.as_os_str().is_empty());
        let auth = auth.map(|file| format!("--src-authfile={}", file.display()));
        program.extend(auth.as_deref());
        program.extend(["--", &source.name, "oci:layout:image"]);
        let inherited = source.opened.into_iter().collect();
        self.run_program(inherited, Progress::Fetching, |place, look| {
            place.run(&program, look)
        })
    }

    /// Puts the fetched image on the shelf, unless it is there by another name.
    fn keep(&mut self, description: Description) -> Result<Image, PullError> {
        let there = self.shelf.image(&description.id).map_err(PullError::Here)?;
        if let Some(image) = there {
            return Ok(image);
        }
        let making = self.folder.join("image");
        self.unpack(&making)?;
        let root = making.join("root");
        let size = measure(&root).map_err(PullError::Here)?;
        let image = Image {
            user: Person::of_image(&description.user, &root)?,
            id: description.id,
            env: description.env,
            bytes: size.bytes,
            fetched_at: self.now,
        };
        self.shelve(&making, &image).map_err(PullError::Here)?;
        Ok(image)
    }

    fn unpack(&mut self, making: &Path) -> Result<(), PullError> {
        files::folder(making, 0o700)
            .and_then(|()| chown(making, Some(self.ids), Some(self.ids)))
            .and_then(|()| own_mounts())
            .and_then(|()| Ok(rustix::mount::mount_bind(&self.folder, STAGE)?))
            .map_err(PullError::Here)?;
        let map = IdMap {
            inside: 0,
            outside: self.ids,
            count: ranges::SIZE,
        };
        let (from, to) = (
            format!("{STAGE}/layout:image"),
            format!("{STAGE}/image/root"),
        );
        let program = [UNPACK, "raw", "unpack", "--image", &from, &to];
        self.run_program(Vec::new(), Progress::Unpacking, |place, look| {
            let place = Place {
                folder: Path::new(STAGE),
                ..place
            };
            place.run_as_nobody(map, &program, || {
                failpoint("image_unpacking");
                look()
            })
        })
    }

    /// Runs a program under the limits of a pull; where it fails, the error is what it said last.
    fn run_program(
        &mut self,
        mut inherited: Vec<OwnedFd>,
        stage: fn(u64) -> Progress,
        run: impl FnOnce(Place<'_>, &mut dyn FnMut() -> Result<(), PullError>) -> Result<(), PullError>,
    ) -> Result<(), PullError> {
        let log = self.folder.join("log");
        let until = Instant::now() + Duration::from_secs(self.settings.pull_timeout_seconds);
        inherited.push(self.lock.try_clone().map_err(PullError::Here)?);
        let place = Place {
            folder: &self.folder,
            log: &log,
            inherited,
            largest: self.settings.max_bytes.0,
        };
        let (folder, max, hear) = (&self.folder, self.settings.max_bytes.0, &mut self.hear);
        let mut before = None;
        let mut look = move || {
            let size = measure(folder).map_err(PullError::Here)?;
            let done = Size {
                bytes: size
                    .bytes
                    .saturating_sub(*before.get_or_insert(match stage(0) {
                        Progress::Fetching(_) => 0,
                        Progress::Unpacking(_) => size.bytes,
                    })),
                ..size
            };
            if room::is_short(folder).map_err(PullError::Here)? {
                return Err(PullError::NoRoom);
            }
            if done.bytes > max || done.entries > MOST_ENTRIES {
                return Err(PullError::refused(format!(
                    "it is larger than images.max_bytes ({max}) or {MOST_ENTRIES} files"
                )));
            }
            if Instant::now() > until {
                return Err(PullError::refused(
                    "it took longer than images.pull_timeout_seconds",
                ));
            }
            hear(stage(done.bytes))
        };
        look()?;
        match run(place, &mut look) {
            // What a program says of a disk without room is not what is wrong with the image.
            Err(PullError::Failed) => match room::is_short(folder) {
                Ok(false) => Err(PullError::Refused(words(&log))),
                Ok(true) => Err(PullError::NoRoom),
                Err(error) => Err(PullError::Here(error)),
            },
            other => other,
        }
    }

    /// Writes down what the image is, and gives it its name once all of it is on the disk.
    fn shelve(&self, making: &Path, image: &Image) -> io::Result<()> {
        chown(making, Some(0), Some(0))?;
        let root = making.join("root");
        if let Some(passwd) = image.user.added_to_passwd(&root) {
            files::write_whole(&making.join("passwd"), passwd.as_bytes(), 0o644)?;
        }
        let document = serde_json::to_vec_pretty(image)?;
        files::write_whole(&making.join("image.json"), &document, 0o600)?;
        syncfs(fs::File::open(making)?)?;
        failpoint("image_shelving");
        match fs::rename(making, self.shelf.place(&image.id)) {
            // Another reference brought the same image meanwhile.
            Err(_) if is_there(self.shelf, &image.id)? => Ok(()),
            other => other,
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    full.contains(&error.kind())
}

fn is_there(shelf: &Shelf, id: &ImageId) -> io::Result<bool> {
    Ok(shelf.image(id)?.is_some())
}

/// What a program said last, without the frame that its log puts around it.
fn words(log: &Path) -> String {
    let said = last_words(log).unwrap_or_default();
    let last = said.lines().last().unwrap_or_default();
    let message = last
        .split_once(" msg=\"")
        .map_or(last, |(_, message)| message);
    let message = message.strip_suffix('"').unwrap_or(message);
    message
        .trim_start_matches(['⨯', '•', ' '])
        .replace("\\\"", "\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_words_are_shown_without_their_frame() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("log");
        for (said, shown) in [
            (
                "time=\"x\" level=info msg=\"a\"\ntime=\"x\" level=fatal msg=\"no \\\"b\\\"\"\n",
                "no \"b\"",
            ),
            (
                "   ⨯ get descriptor: no such file\n",
                "get descriptor: no such file",
            ),
            ("", ""),
        ] {
            fs::write(&log, said).expect("written");
            assert_eq!(words(&log), shown);
        }
    }
}
