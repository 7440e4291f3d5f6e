//! How an ordinary user's process becomes root of a user namespace.
//!
//! ```text
//!  this process, one thread                     two helpers, still outside
//!    starts the helpers ───────────────────────▶ wait
//!    unshares users and mounts ────────────────▶ newuidmap, newgidmap: 0 is the user, 1… his subordinate ids
//!    is root of the namespace ◀───────────────── end
//! ```
//!
//! It stays the same process, with the same number and parent. What it mounts is its own and ends with it; what it starts
//! has the user's rights on the machine and no others.
//!
//! Environments outlive the service, and only their namespace's root has any right over them. So a service that finds a
//! living one, be it held ready and nobody's yet, joins the namespace that it was started from, which the kernel keeps for
//! as long as anything lives in it.
//! One that is just being started, by an OCI runtime whose service was killed, is waited for.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Gid, Uid};

use super::checks;
use super::layout::{Home, LOCKS, lock_of};
use super::lock::Lock;
use super::parent::parent_of;
use super::process::{FirstProcess, Proof};
use super::standing::Standing;
use super::subordinate::{Subordinate, map};

/// Waits for a line, then becomes the command that it was given.
const HELPER: &str = "read -r go && exec \"$@\"";

/// Why there is no namespace.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The machine or the user lacks something; the text says what, and what mends it.
    #[error("{0}")]
    Lacking(String),
    /// The system refused.
    #[error(
        "no user namespace can be had, for {doing}: {source}: `environment-manager doctor` looks into it"
    )]
    Refused {
        /// At what.
        doing: &'static str,
        /// What it says.
        source: io::Error,
    },
}

/// Makes this process root of a user namespace, unless it is root already: of the one that holds the living environments of
/// this folder, if there are any. It must have no other thread.
pub fn enter(environments: Option<&Path>) -> Result<(), NamespaceError> {
    let refused = |doing| move |source| NamespaceError::Refused { doing, source };
    if Standing::of_this_process().map_err(refused("the user's ids"))? != Standing::Powerless {
        return Ok(());
    }
    if let Some(missing) = checks::of_the_user()
        .into_iter()
        .find_map(checks::Check::failure)
    {
        return Err(NamespaceError::Lacking(missing));
    }
    let living = environments.map(namespace_of_the_living).transpose();
    if let Some(namespace) = living
        .map_err(refused("the living environments"))?
        .flatten()
    {
        return join(&namespace).map_err(refused("the living environments"));
    }
    make()
}

/// The namespace that the environments of the folder were started from, if one of them is alive.
fn namespace_of_the_living(environments: &Path) -> io::Result<Option<OwnedFd>> {
    let entries = match fs::read_dir(environments) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        let name = entry?.file_name();
        let Some(lock) = lock_of(&name.to_string_lossy()) else {
            continue;
        };
        let home = Home::at(environments.join(&name));
        let _lock = Lock::take(&environments.join(LOCKS), lock.as_str())?;
        let proof = Proof::Volume(home.volume());
        let first = FirstProcess::find(&home.pid_file(), &proof)?;
        let users = first.map(|first| first.user_namespace()).transpose()?;
        if let Some(users) = users.flatten() {
            return parent_of(&users).map(Some);
        }
    }
    Ok(None)
}

fn join(namespace: &OwnedFd) -> io::Result<()> {
    setns(namespace, CloneFlags::CLONE_NEWUSER)?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    Ok(())
}

fn make() -> Result<(), NamespaceError> {
    let refused = |doing| move |source| NamespaceError::Refused { doing, source };
    let subordinate = Subordinate::of_this_user().map_err(refused("the user's ids"))?;
    let (uid, gid) = (Uid::effective().as_raw(), Gid::effective().as_raw());
    let helpers = [
        ("newuidmap", map(uid, &subordinate.uids)),
        ("newgidmap", map(gid, &subordinate.gids)),
    ]
    .map(|(program, map)| Helper::start(program, &map));
    let entered = unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS);
    for helper in helpers {
        let helper = helper.map_err(refused("the map of ids"))?;
        helper
            .go(entered.is_ok())
            .map_err(refused("the map of ids"))?;
    }
    entered.map_err(|errno| refused("this process")(errno.into()))
}

/// A process that maps ids once this one is in its namespace.
struct Helper(Child);

impl Helper {
    fn start(program: &str, map: &[String]) -> io::Result<Self> {
        Command::new("sh")
            .args(["-c", HELPER, "sh", program])
            .arg(std::process::id().to_string())
            .args(map)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map(Self)
    }

    /// Lets it map, or end without.
    fn go(mut self, map: bool) -> io::Result<()> {
        let stdin = self.0.stdin.take();
        if !map {
            drop(stdin);
            return self.0.wait().map(drop);
        }
        if let Some(mut stdin) = stdin {
            stdin.write_all(b"\n")?;
        }
        let mut said = String::new();
        if let Some(mut stderr) = self.0.stderr.take() {
            stderr.read_to_string(&mut said)?;
        }
        if self.0.wait()?.success() {
            Ok(())
        } else {
            Err(io::Error::other(said.trim().to_owned()))
        }
    }
}
