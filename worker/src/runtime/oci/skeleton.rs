//! The image `host`: what an environment sees of this machine.
//!
//! A small read-only tree, made once and shared by all environments: mount points, the links of a merged `/usr`, and a
//! copy of the few files of `/etc` without which ordinary programs do not work. Nothing that may hold a secret is copied:
//! what is not readable for everybody is left out, and so are the accounts of people. `/usr` itself is bind-mounted.
//!
//! The tree's name holds a hash of what it was made from, so a machine that was upgraded gets a new one, and the old one
//! stays for the environments that still run on it.

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use sha2::{Digest, Sha256};

use super::accounts::Accounts;
use super::files;
use super::ground::{HOST_NAME, HOSTS};
use super::lock::Lock;
use super::remove::remove_tree;

/// Raised when a skeleton is made in another way from the same machine.
const VERSION: &str = "1";

/// Mount points and folders.
const FOLDERS: [&str; 17] = [
    ".em/state",
    "app",
    "dev",
    "etc",
    "home",
    "media",
    "mnt",
    "opt",
    "proc",
    "root",
    "run",
    "srv",
    "sys",
    "tmp",
    "usr",
    "var/log",
    "var/tmp",
];

/// Folders of programs that are links into `/usr`, or folders of their own on machines that have not merged them.
const PROGRAMS: [&str; 6] = ["bin", "lib", "lib32", "lib64", "libx32", "sbin"];

/// What is copied of `/etc`, where it is there.
const COPIED: [&str; 18] = [
    "alternatives",
    "bash.bashrc",
    "debian_version",
    "inputrc",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "magic",
    "mime.types",
    "perl",
    "profile",
    "protocols",
    "rpc",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "timezone",
];

/// Beginnings of names of `/etc` that are copied too: language runtimes that keep a part of themselves there.
const COPIED_PREFIXES: [&str; 2] = ["java-", "python3"];

/// A file of `/etc` that is larger is no configuration.
const LARGEST_FILE: u64 = 8 << 20;

/// The skeleton, made in the background from the first moment on: it has hundreds of small files, for which the start of
/// the service need not wait. Who needs it first waits for it.
pub(super) struct Skeletons {
    images: PathBuf,
    locks: PathBuf,
    made: Arc<OnceLock<Skeleton>>,
}

impl Skeletons {
    /// Begins to make it.
    pub(super) fn begin(images: PathBuf, locks: PathBuf) -> io::Result<Self> {
        let skeletons = Self {
            images,
            locks,
            made: Arc::default(),
        };
        let (images, locks) = (skeletons.images.clone(), skeletons.locks.clone());
        let made = Arc::clone(&skeletons.made);
        std::thread::Builder::new()
            .name("skeleton".to_owned())
            .spawn(move || match Skeleton::ready(&images, &locks) {
                Ok(skeleton) => drop(made.set(skeleton)),
                // Whoever needs it tries again, and tells his caller.
                Err(error) => tracing::warn!(%error, "the image of this machine is not made yet"),
            })?;
        Ok(skeletons)
    }

    /// The skeleton; blocks while it is being made.
    pub(super) fn get(&self) -> io::Result<&Skeleton> {
        if let Some(skeleton) = self.made.get() {
            return Ok(skeleton);
        }
        let skeleton = Skeleton::ready(&self.images, &self.locks)?;
        Ok(self.made.get_or_init(|| skeleton))
    }
}

/// The image, ready to be mounted.
#[derive(Debug, Clone)]
pub(super) struct Skeleton {
    /// The tree.
    pub(super) root: PathBuf,
    /// Folders of this machine that are bind-mounted into it, read-only, at the same place.
    pub(super) binds: Vec<PathBuf>,
}

impl Skeleton {
    /// The skeleton of this machine as it is now, made if it is not there yet.
    pub(super) fn ready(images: &Path, locks: &Path) -> io::Result<Self> {
        let sources = sources()?;
        let root = images.join(format!("host-{}", hash_of(&sources)?));
        let skeleton = Self {
            binds: binds(),
            root,
        };
        if !skeleton.root.is_dir() {
            let _lock = Lock::take(locks, "images")?;
            if !skeleton.root.is_dir() {
                let unfinished = images.join(".host-unfinished");
                remove_tree(&unfinished)?;
                make(&unfinished, &sources)?;
                fs::rename(&unfinished, &skeleton.root)?;
            }
        }
        Ok(skeleton)
    }
}

/// `/usr`, and the program folders that are no links into it.
fn binds() -> Vec<PathBuf> {
    let own = PROGRAMS
        .iter()
        .map(|name| Path::new("/").join(name))
        .filter(|path| fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()));
    std::iter::once(PathBuf::from("/usr")).chain(own).collect()
}

/// Every file, link and folder of `/etc` that is copied, each after its folder.
fn sources() -> io::Result<Vec<(PathBuf, Metadata)>> {
    let mut names: Vec<PathBuf> = COPIED.iter().map(PathBuf::from).collect();
    for entry in fs::read_dir("/etc")? {
        let name = entry?.file_name();
        let text = name.to_string_lossy();
        if COPIED_PREFIXES
            .iter()
            .any(|prefix| text.starts_with(prefix))
        {
            names.push(name.into());
        }
    }
    let mut found = Vec::new();
    while let Some(name) = names.pop() {
        let path = Path::new("/etc").join(&name);
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            continue;
        };
        if metadata.is_dir() {
            for entry in fs::read_dir(&path)? {
                names.push(name.join(entry?.file_name()));
            }
        }
        let public = metadata.is_symlink() || metadata.mode() & 0o004 != 0;
        if public && metadata.len() <= LARGEST_FILE {
            found.push((name, metadata));
        }
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(found)
}

/// Sixteen hexadecimal digits that change when a source does.
fn hash_of(sources: &[(PathBuf, Metadata)]) -> io::Result<String> {
    let mut hash = Sha256::new();
    hash.update(VERSION);
    for (name, metadata) in sources {
        hash.update(name.as_os_str().as_encoded_bytes());
        hash.update(metadata.len().to_be_bytes());
        hash.update(metadata.mtime().to_be_bytes());
        hash.update(metadata.ino().to_be_bytes());
    }
    for account in ["/etc/passwd", "/etc/group"] {
        hash.update(fs::read(account)?);
    }
    for name in PROGRAMS {
        let path = Path::new("/").join(name);
        if let Ok(target) = fs::read_link(&path) {
            hash.update(target.as_os_str().as_encoded_bytes());
        }
        hash.update([u8::from(path.is_dir())]);
    }
    Ok(hash
        .finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

fn make(root: &Path, sources: &[(PathBuf, Metadata)]) -> io::Result<()> {
    for name in FOLDERS {
        fs::create_dir_all(root.join(name))?;
    }
    for name in PROGRAMS {
        let path = Path::new("/").join(name);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_symlink() => symlink(fs::read_link(&path)?, root.join(name))?,
            Ok(found) if found.is_dir() => fs::create_dir(root.join(name))?,
            _ => {}
        }
    }
    symlink("/run", root.join("var/run"))?;
    let etc = root.join("etc");
    for (name, metadata) in sources {
        copy(&Path::new("/etc").join(name), &etc.join(name), metadata)?;
    }
    let accounts = Accounts::of_the_machine()?;
    for (name, content) in [
        ("passwd", accounts.passwd),
        ("group", accounts.group),
        ("hosts", HOSTS.to_owned()),
        ("hostname", format!("{HOST_NAME}\n")),
        (
            "nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files dns\n".to_owned(),
        ),
        ("resolv.conf", String::new()),
    ] {
        fs::write(etc.join(name), content)?;
    }
    symlink("/proc/self/mounts", etc.join("mtab"))?;
    symlink("../usr/lib/os-release", etc.join("os-release"))?;
    // The last component must exist as a file, to be mounted over.
    fs::write(root.join(".em/runner"), "")?;
    open_to_all(root)?;
    // Some OCI runtimes give a tmpfs the mode of the folder that it is mounted on, whatever its options say.
    for (folder, mode) in [("tmp", 0o1777), ("var/tmp", 0o1777), ("root", 0o700)] {
        files::folder(&root.join(folder), mode)?;
    }
    Ok(())
}

/// Lets everybody read the tree and pass its folders, whatever this process's umask is.
fn open_to_all(path: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_symlink() {
        return Ok(());
    }
    let mode = if metadata.is_dir() { 0o755 } else { 0o644 };
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            open_to_all(&entry?.path())?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path, metadata: &Metadata) -> io::Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    // A link is copied as it is: most lead into /usr, and where one leads nowhere inside there is nothing to be had.
    if metadata.is_symlink() {
        symlink(fs::read_link(from)?, to)
    } else if metadata.is_dir() {
        fs::create_dir_all(to)
    } else if metadata.is_file() {
        fs::copy(from, to).map(drop)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skeleton_is_made_once_and_holds_nothing_private() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = Skeleton::ready(folder.path(), folder.path()).expect("made");
        let mark = first.root.join("mark");
        fs::write(&mark, "").expect("written");
        let again = Skeleton::ready(folder.path(), folder.path()).expect("found");
        assert_eq!(again.root, first.root);
        assert!(mark.exists(), "it was made a second time");
        for name in [
            "etc/shadow",
            "etc/gshadow",
            "etc/ssl/private",
            "etc/ssh",
            "root/.ssh",
        ] {
            assert!(!first.root.join(name).exists(), "{name}");
        }
        let passwd = fs::read_to_string(first.root.join("etc/passwd")).expect("there");
        assert!(passwd.contains("user:x:1000:1000:"));
        assert!(first.binds.contains(&PathBuf::from("/usr")));
    }
}
