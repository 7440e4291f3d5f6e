//! Where an image may come from, and the way there: what the settings do not allow is refused here.
//!
//! A file or folder of this machine is opened once, below a folder that the settings name, without leaving it by a link
//! however often that is exchanged; the other program gets the open descriptor and no path.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

use super::ImageSettings;
use super::pull::PullError;
use super::reference::Reference;

/// The descriptor of a local source in the program that reads it.
pub(super) const SOURCE_FD: i32 = 3;
/// Stands for every registry in the settings.
const ANY: &str = "*";

/// A source that may be used.
#[derive(Debug)]
pub(super) struct Source {
    /// As the pulling program names it.
    pub(super) name: String,
    /// What it inherits as [`SOURCE_FD`].
    pub(super) opened: Option<OwnedFd>,
    /// Whether a registry may be spoken to in clear.
    pub(super) plain_http: bool,
    /// Changes when a local source does: a registry's is only asked again when somebody wants that.
    pub(super) stamp: String,
}

impl Source {
    /// Opens what a reference names.
    pub(super) fn open(reference: &Reference, settings: &ImageSettings) -> Result<Self, PullError> {
        match reference {
            Reference::Registry { registry, .. } => {
                if !names(&settings.registries, registry) {
                    return Err(PullError::refused(format!(
                        "the registry {registry} is not among images.registries of this service"
                    )));
                }
                Ok(Self {
                    name: format!("docker://{reference}"),
                    opened: None,
                    plain_http: names(&settings.plain_http, registry),
                    stamp: String::new(),
                })
            }
            Reference::OciFolder { folder, tag } => {
                let opened = open_below(&settings.folders, folder, OFlags::DIRECTORY)?;
                let index = openat(&opened, "index.json", OFlags::PATH, Mode::empty())
                    .map_err(|_| PullError::refused("it is no OCI layout: it has no index.json"))?;
                Ok(Self {
                    name: format!("oci:/proc/self/fd/{SOURCE_FD}:{tag}"),
                    stamp: stamp(index)?,
                    opened: Some(opened),
                    plain_http: false,
                })
            }
            Reference::DockerArchive { file, name } => {
                let opened = open_below(&settings.folders, file, OFlags::NONBLOCK)?;
                let found = File::from(opened.try_clone().map_err(PullError::Here)?);
                if !found.metadata().map_err(PullError::Here)?.is_file() {
                    return Err(PullError::refused("it is no file"));
                }
                let name = name.as_ref().map(|name| format!(":{name}"));
                Ok(Self {
                    name: format!(
                        "docker-archive:/proc/self/fd/{SOURCE_FD}{}",
                        name.unwrap_or_default()
                    ),
                    stamp: stamp(found)?,
                    opened: Some(opened),
                    plain_http: false,
                })
            }
        }
    }
}

fn names(list: &[String], registry: &str) -> bool {
    list.iter().any(|name| name == registry || name == ANY)
}

/// Opens a path below one of the folders; no link on the way may lead out of it.
fn open_below(folders: &[PathBuf], path: &Path, kind: OFlags) -> Result<OwnedFd, PullError> {
    let below = folders
        .iter()
        .find_map(|folder| Some((folder, path.strip_prefix(folder).ok()?)));
    let Some((folder, rest)) = below else {
        return Err(PullError::refused(
            "files of this machine are used only below the folders in images.folders of this service",
        ));
    };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let opened = openat(CWD, folder, flags | OFlags::DIRECTORY, Mode::empty()).and_then(|top| {
        let rest = if rest.as_os_str().is_empty() {
            Path::new(".")
        } else {
            rest
        };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        openat2(top, rest, flags | kind, Mode::empty(), resolve)
    });
    opened.map_err(|error| PullError::refused(format!("it cannot be opened: {error}")))
}

fn stamp(opened: impl Into<OwnedFd>) -> Result<String, PullError> {
    let found = File::from(opened.into());
    let found: io::Result<_> = found.metadata();
    let found = found.map_err(PullError::Here)?;
    Ok(format!(
        "{}:{}:{}:{}.{}",
        found.dev(),
        found.ino(),
        found.len(),
        found.mtime(),
        found.mtime_nsec()
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn open(settings: &ImageSettings, text: &str) -> Result<Source, PullError> {
        let reference = Reference::parse(text).expect("well-formed");
        Source::open(&reference, settings)
    }

    #[test]
    fn only_named_registries_are_asked_and_only_named_ones_in_clear() {
        let settings = ImageSettings {
            registries: vec!["docker.io".into(), "localhost:5000".into()],
            plain_http: vec!["localhost:5000".into()],
            ..ImageSettings::default()
        };
        let debian = open(&settings, "debian").expect("allowed");
        assert_eq!(debian.name, "docker://docker.io/library/debian:latest");
        assert!(!debian.plain_http);
        let local = open(&settings, "localhost:5000/x").expect("allowed");
        assert!(local.plain_http);
        assert!(open(&settings, "localhost:5001/x").is_err());
        assert!(open(&settings, "169.254.169.254/x").is_err());
        let any = ImageSettings {
            registries: vec!["*".into()],
            ..settings
        };
        assert!(open(&any, "localhost:5001/x").is_ok());
    }

    #[test]
    fn files_are_opened_below_the_folders_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let (inside, outside) = (folder.path().join("in"), folder.path().join("out"));
        fs::create_dir_all(inside.join("layout")).expect("made");
        fs::create_dir_all(outside.join("layout")).expect("made");
        for place in [&inside, &outside] {
            fs::write(place.join("layout/index.json"), "{}").expect("written");
            fs::write(place.join("a.tar"), "tar").expect("written");
        }
        symlink(outside.join("a.tar"), inside.join("link.tar")).expect("linked");
        symlink("../out", inside.join("up")).expect("linked");
        symlink("a.tar", inside.join("own.tar")).expect("linked");
        let settings = ImageSettings {
            folders: vec![inside.clone()],
            ..ImageSettings::default()
        };
        let archive = |path: &Path| format!("docker-archive:{}", path.display());
        let layout = |path: &Path| format!("oci:{}:t", path.display());
        for good in [
            archive(&inside.join("a.tar")),
            archive(&inside.join("own.tar")),
            layout(&inside.join("layout")),
        ] {
            let source = open(&settings, &good).expect(&good);
            assert!(source.opened.is_some() && source.name.contains(":/proc/self/fd/3"));
        }
        for bad in [
            archive(&outside.join("a.tar")),
            archive(&inside.join("link.tar")),
            archive(&inside.join("up/a.tar")),
            archive(&inside.join("layout")),
            archive(&inside.join("missing.tar")),
            layout(&outside.join("layout")),
            layout(&inside),
            archive(Path::new("/etc/passwd")),
        ] {
            assert!(open(&settings, &bad).is_err(), "{bad}");
        }
        let fifo = inside.join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).expect("made");
        assert!(open(&settings, &archive(&fifo)).is_err());
        assert!(open(&ImageSettings::default(), &archive(&inside.join("a.tar"))).is_err());
    }

    #[test]
    fn a_changed_file_is_another_source() {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = ImageSettings {
            folders: vec![folder.path().to_owned()],
            ..ImageSettings::default()
        };
        let file = folder.path().join("a.tar");
        let stamp = || {
            let text = format!("docker-archive:{}", file.display());
            open(&settings, &text).expect("opened").stamp
        };
        fs::write(&file, "one").expect("written");
        let before = stamp();
        assert_eq!(stamp(), before);
        fs::write(&file, "three").expect("written");
        assert_ne!(stamp(), before);
    }
}
