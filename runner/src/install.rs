//! Copies the program itself to a folder: how it gets into a pod, where an init container runs it and the main container
//! mounts the folder read-only.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// The program's name in the folder.
const NAME: &str = "em-runner";

/// Executable, and not readable, also by the user that commands run as: what runs a file that it cannot read is closed to
/// debuggers from its first instruction on.
const MODE: u32 = 0o111;

/// Of a folder that is made for commands, whose user is the one who makes it.
const OWN_HOME_MODE: u32 = 0o750;

/// Of one that root makes for a user he does not know: all users of the environment are in its group.
const GROUP_HOME_MODE: u32 = 0o2770;

/// Copies the program to `folder`, all at once: a reader finds the old one, if there was one, or the whole new one.
///
/// `home` is the folder that commands work in, on a volume whose own root is somebody else's: made here it is theirs.
pub(crate) fn run(folder: &Path, home: Option<&Path>) -> io::Result<()> {
    if let Some(home) = home {
        make(home).map_err(|error| told(home, &error))?;
    }
    let place = folder.join(NAME);
    let unfinished = folder.join(format!(".{NAME}.{}", std::process::id()));
    copy(Path::new("/proc/self/exe"), &unfinished)
        .and_then(|()| std::fs::rename(&unfinished, &place))
        .inspect_err(|_| {
            // The cause is told; what is left of the copy does no harm.
            let _ = std::fs::remove_file(&unfinished);
        })
        .map_err(|error| told(&place, &error))
}

fn told(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn make(home: &Path) -> io::Result<()> {
    match std::fs::create_dir(home) {
        Ok(()) => {
            let mode = match nix::unistd::geteuid().is_root() {
                true => GROUP_HOME_MODE,
                false => OWN_HOME_MODE,
            };
            std::fs::set_permissions(home, Permissions::from_mode(mode))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    // What a process of the same number left behind when it was killed.
    match std::fs::remove_file(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut target = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)?;
    io::copy(&mut File::open(from)?, &mut target)?;
    target.set_permissions(Permissions::from_mode(MODE))?;
    target.sync_all()
}
