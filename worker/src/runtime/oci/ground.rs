//! What an environment stands on: this machine's own programs, or an image.

use std::io;
use std::path::{Path, PathBuf};

use shared::ports::{Placement, RuntimeError};

use super::fault::unavailable;
use super::host::Host;
use super::image::Person;
use super::layout::Home;
use super::life::Life;
use super::record::{LifeImage, Record};
use super::tree::{Tree, make_layer};
use super::{fetch, files};

/// The image that is this machine's own programs.
pub(super) const HOST_IMAGE: &str = "host";
/// The host name inside. `/etc/hosts` knows it.
pub(super) const HOST_NAME: &str = "environment";
/// What `/etc/hosts` says.
pub(super) const HOSTS: &str = "127.0.0.1 localhost environment\n::1 localhost ip6-localhost\n";

/// All that an image gives to a container.
pub(super) struct Ground {
    /// The tree of its root.
    pub(super) tree: Tree,
    /// What is mounted into it, read-only, and where.
    pub(super) binds: Vec<(PathBuf, PathBuf)>,
    /// `NAME=value` each: defaults of every command.
    pub(super) env: Vec<String>,
    /// Who runs commands.
    pub(super) user: Person,
    /// Whether the root is read-only and has none of the places where programs write.
    pub(super) is_bare: bool,
}

impl Host {
    /// Makes a new life on the image that was asked for, which must have been fetched.
    pub(super) fn make_on_image(&self, placement: &Placement) -> Result<Life, RuntimeError> {
        let image = &placement.spec.image;
        self.with_image(image, |found| self.make(placement, found))?
            .ok_or_else(|| {
                RuntimeError::Unavailable(format!("the image {image} has not been fetched"))
            })
    }

    /// Makes something that stands on an image, from whose folder on the image cannot go; nothing where there is no such
    /// image here.
    pub(super) fn with_image<T>(
        &self,
        image: &str,
        make: impl FnOnce(Option<&LifeImage>) -> Result<T, RuntimeError>,
    ) -> Result<Option<T>, RuntimeError> {
        if image == HOST_IMAGE {
            return make(None).map(Some);
        }
        let _held = self
            .images
            .hold()
            .map_err(unavailable("the images cannot be locked"))?;
        let found = self.images.find(image);
        let Some(found) = found.map_err(|error| fetch::told(image, error))? else {
            return Ok(None);
        };
        let found = LifeImage {
            id: found.id,
            user: found.user,
        };
        make(Some(&found)).map(Some)
    }

    /// What the life stands on, with a new layer of its own where it is an image.
    pub(super) fn ground(&self, home: &Home, record: &Record) -> io::Result<Ground> {
        match LifeImage::read(home.folder())? {
            None => self.bare(),
            Some(image) => self.layered(home, record, &image),
        }
    }

    /// This machine's own programs.
    pub(super) fn bare(&self) -> io::Result<Ground> {
        let skeleton = self.skeletons.get()?;
        let itself = |path: &PathBuf| (path.clone(), path.clone());
        Ok(Ground {
            tree: Tree::Plain(skeleton.root.clone()),
            binds: skeleton.binds.iter().map(itself).collect(),
            env: Vec::new(),
            user: Person::DEFAULT,
            is_bare: true,
        })
    }

    fn layered(&self, home: &Home, record: &Record, life: &LifeImage) -> io::Result<Ground> {
        let image = self
            .images
            .image(&life.id)?
            .ok_or_else(|| io::Error::other(format!("the image {} is gone", life.id)))?;
        self.images.note_use(&image)?;
        make_layer(&home.layer(), record.first_host_id)?;
        let hosts = home.bundle().join("hosts");
        files::write_whole(&hosts, HOSTS.as_bytes(), 0o644)?;
        let mut binds = vec![(hosts, Path::new("/etc/hosts").to_owned())];
        let passwd = self.images.passwd(&image.id);
        binds.extend(passwd.map(|passwd| (passwd, Path::new("/etc/passwd").to_owned())));
        Ok(Ground {
            tree: Tree::Layered {
                image: self.images.root(&image.id),
                layer: home.layer(),
                first_host_id: record.first_host_id,
                standing: self.standing,
            },
            binds,
            env: image.env,
            user: life.user,
            is_bare: false,
        })
    }
}
