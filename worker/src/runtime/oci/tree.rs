//! The tree that an environment's root is, mounted on the stage for the moment in which its container is made.
//!
//! ```text
//!   host      skeleton ──bind──▶ STAGE
//!
//!   an image  root, ids of nobody ──ids of the environment──▶ lower ┐
//!             layer/upper, the environment's own ───────────────────┴──overlay──▶ STAGE
//! ```
//!
//! All environments of an image share its tree; each sees its files as its own users'. What an environment writes
//! there goes into its own layer. Set-uid programs and device nodes of an image mean nothing.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_bind, move_mount, open_tree,
};

use super::idmap::map_ids;
use super::stage::STAGE;
use super::standing::Standing;
use super::userns::{self, IdMap};
use super::{files, ranges};

/// What is mounted.
pub(super) enum Tree {
    /// A tree as it is.
    Plain(PathBuf),
    /// An image, and what is written on top of it.
    Layered {
        /// The image's tree.
        image: PathBuf,
        /// The folder of the environment's own layer.
        layer: PathBuf,
        /// The host id of root inside.
        first_host_id: u32,
        /// What this process may do.
        standing: Standing,
    },
}

impl Tree {
    /// Mounts it on the stage, for the calling thread's mount namespace only.
    pub(super) fn mount(&self) -> io::Result<()> {
        match self {
            Self::Plain(root) => Ok(mount_bind(root, STAGE)?),
            Self::Layered {
                image,
                layer,
                first_host_id,
                standing,
            } => {
                let on_disk = standing.image_ids();
                if on_disk == *first_host_id {
                    mount_bind(image, STAGE)?;
                } else {
                    mount_mapped(image, on_disk, *first_host_id)?;
                }
                mount_layer(layer, standing.is_namespace())
            }
        }
    }
}

/// Makes an empty layer. Its top is the root folder of the environment, `/tmp` is for everybody, and what this adapter
/// mounts has folders to be mounted on, whatever the image has there.
pub(super) fn make_layer(layer: &Path, first_host_id: u32) -> io::Result<()> {
    for folder in [layer.to_owned(), work(layer)] {
        files::folder(&folder, 0o700)?;
    }
    let upper = upper(layer);
    for (folder, mode) in [
        (upper.clone(), 0o755),
        (upper.join("tmp"), 0o1777),
        (upper.join("app"), 0o755),
        (upper.join(".em"), 0o755),
    ] {
        files::folder(&folder, mode)?;
        chown(folder, Some(first_host_id), Some(first_host_id))?;
    }
    Ok(())
}

fn upper(layer: &Path) -> PathBuf {
    layer.join("upper")
}

fn work(layer: &Path) -> PathBuf {
    layer.join("work")
}

/// The image's tree, its files the environment's users'.
fn mount_mapped(image: &Path, on_disk: u32, first_host_id: u32) -> io::Result<()> {
    let map = IdMap {
        inside: on_disk,
        outside: first_host_id,
        count: ranges::SIZE,
    };
    let users = userns::open(map)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, image, flags)?;
    map_ids(&tree, &users).map_err(|error| {
        io::Error::other(format!(
            "the files of an image cannot be given to an environment (Linux 5.19 can, on most file systems): {error}"
        ))
    })?;
    Ok(move_mount(
        &tree,
        "",
        CWD,
        STAGE,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?)
}

/// The overlay of what is on the stage and the layer, on the stage. Paths go in as open folders, so that no letter in
/// them means anything, and nothing inside tells where they are.
fn mount_layer(layer: &Path, in_namespace: bool) -> io::Result<()> {
    let (upper, work) = (open(&upper(layer))?, open(&work(layer))?);
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&overlay, "source", "image")?;
    fsconfig_set_string(&overlay, "lowerdir", STAGE)?;
    fsconfig_set_string(&overlay, "upperdir", path_of(&upper))?;
    fsconfig_set_string(&overlay, "workdir", path_of(&work))?;
    if in_namespace {
        // Its notes on files are attributes that a namespace may write.
        fsconfig_set_flag(&overlay, "userxattr")?;
    }
    fsconfig_create(&overlay)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let mount = fsmount(&overlay, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    Ok(move_mount(
        &mount,
        "",
        CWD,
        STAGE,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?)
}

fn open(folder: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, folder, flags, Mode::empty())?)
}

fn path_of(folder: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", folder.as_raw_fd())
}
