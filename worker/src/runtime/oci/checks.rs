//! What this machine must have to hold environments: the one list, for the start, for `/ready` and for `doctor`.
//!
//! ```text
//!  of_the_user      before there is a namespace: an ordinary user only
//!  of_the_machine   what every start of a container needs
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::cgroup::Cgroups;
use super::program::{Program, is_installed};
use super::ranges;
use super::settings::OciSettings;
use super::standing::Standing;
use super::subordinate::Subordinate;
use super::{image, network};

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What it is about, in a word or two.
    pub about: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub says: String,
    /// The command or the step that mends it.
    pub mend: Option<String>,
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Environments can be had, but less than could be.
    Lacking,
    /// No environment can be had.
    Missing,
}

impl Check {
    fn good(about: &'static str, says: impl Into<String>) -> Self {
        Self {
            about,
            verdict: Verdict::Good,
            says: says.into(),
            mend: None,
        }
    }

    fn lacking(about: &'static str, says: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            about,
            verdict: Verdict::Lacking,
            says: says.into(),
            mend: Some(mend.into()),
        }
    }

    fn missing(about: &'static str, says: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Missing,
            ..Self::lacking(about, says, mend)
        }
    }

    /// How a trial ended: why there was no environment, if so.
    pub fn of_trial(failure: Option<String>) -> Self {
        let about = "environment";
        match failure {
            None => Self::good(about, "one was made, answered and was removed"),
            Some(why) => Self::missing(about, why, "see what the OCI runtime says there"),
        }
    }

    /// What is missing and what mends it, in one line; nothing where environments can be had all the same.
    pub fn failure(self) -> Option<String> {
        (self.verdict == Verdict::Missing).then(|| match self.mend {
            Some(mend) => format!("{}: {mend}", self.says),
            None => self.says,
        })
    }
}

/// What an ordinary user needs to become root of a namespace.
pub fn of_the_user() -> Vec<Check> {
    vec![user_namespaces(), id_programs(), subordinate_ids()]
}

/// The same as the start and `/ready` go by, for this process and settings, without opening anything.
pub fn of_this_machine(settings: &OciSettings) -> io::Result<Vec<Check>> {
    let standing = Standing::of_this_process()?;
    let program = Program::new(
        settings.binary.clone(),
        settings.folder.join(".runc"),
        standing,
    );
    Ok(of_the_machine(standing, &program, &Cgroups::of(standing)?))
}

/// What a process of this standing needs to start containers with this program.
pub(super) fn of_the_machine(
    standing: Standing,
    program: &Program,
    cgroups: &Cgroups,
) -> Vec<Check> {
    vec![
        rights(standing),
        user_namespaces(),
        oci_runtime(program),
        limits(standing, cgroups, program),
        images(),
        networks(),
    ]
}

fn rights(standing: Standing) -> Check {
    let about = "rights";
    match standing {
        Standing::Root => Check::good(about, "root: each environment has ids of its own"),
        Standing::Namespace(count) if count >= 2 * ranges::SIZE => Check::good(
            about,
            format!(
                "an ordinary user with ids for {} environments apart; more share them",
                count / ranges::SIZE
            ),
        ),
        Standing::Namespace(count) if count >= ranges::SIZE => Check::good(
            about,
            "an ordinary user; the environments share one range of ids",
        ),
        Standing::Namespace(count) => Check::missing(
            about,
            format!(
                "the user namespace has {count} ids beside its root, and an environment needs {}",
                ranges::SIZE
            ),
            "start the service outside of it, as root or as a user with enough subordinate ids",
        ),
        Standing::Powerless => Check::missing(
            about,
            "environments are made by root, or by an ordinary user in a user namespace",
            "start the service as root, or set runtime.rootless to auto",
        ),
    }
}

/// A kernel setting that may close user namespaces: where it stands, the value that closes them, and what opens them.
const SWITCHES: [(&str, &str, &str); 3] = [
    (
        "/proc/sys/user/max_user_namespaces",
        "0",
        "sysctl -w user.max_user_namespaces=10000",
    ),
    (
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
];

fn user_namespaces() -> Check {
    let about = "user namespaces";
    let read = |path: &str| fs::read_to_string(path).ok();
    // Only the first of them binds root.
    let switches = if rustix::process::geteuid().is_root() {
        SWITCHES.get(..1)
    } else {
        SWITCHES.get(..)
    };
    if let Some(mend) = closed(switches.unwrap_or_default(), read) {
        return Check::missing(about, "user namespaces are switched off", mend);
    }
    if read("/proc/sys/user/max_user_namespaces").is_none() {
        return Check::missing(
            about,
            "this kernel has no user namespaces",
            "take a kernel that is built with CONFIG_USER_NS",
        );
    }
    Check::good(about, "open")
}

/// What opens user namespaces, if one of the switches closes them.
fn closed(
    switches: &[(&str, &str, &'static str)],
    read: impl Fn(&str) -> Option<String>,
) -> Option<&'static str> {
    switches
        .iter()
        .find(|(path, closing, _)| read(path).is_some_and(|value| value.trim() == *closing))
        .map(|(_, _, mend)| *mend)
}

fn id_programs() -> Check {
    let about = "id maps";
    match ["newuidmap", "newgidmap"].map(on_the_path) {
        [Some(_), Some(_)] => Check::good(about, "newuidmap and newgidmap are there"),
        _ => Check::missing(
            about,
            "newuidmap or newgidmap is not installed, so an ordinary user has no ids for environments",
            "apt-get install uidmap",
        ),
    }
}

fn subordinate_ids() -> Check {
    let about = "subordinate ids";
    match Subordinate::of_this_user() {
        Ok(found) if found.count() >= ranges::SIZE => {
            Check::good(about, format!("{} of {}", found.count(), found.user))
        }
        Ok(found) => Check::missing(
            about,
            format!(
                "the user {} has {} subordinate ids, and an environment needs {}",
                found.user,
                found.count(),
                ranges::SIZE
            ),
            format!(
                "as root, usermod --add-subuids 1000000-1065535 --add-subgids 1000000-1065535 {}, or another range that \
                 nobody has in /etc/subuid",
                found.user
            ),
        ),
        Err(error) => Check::missing(
            about,
            format!("/etc/subuid cannot be read: {error}"),
            "make it readable for everybody",
        ),
    }
}

fn oci_runtime(program: &Program) -> Check {
    let about = "OCI runtime";
    let binary = program.binary().display();
    match program.version() {
        Ok(version) if super::program::is_unsound(&version) => Check::lacking(
            about,
            format!(
                "{version}: older than 1.2.8; unless the distribution has mended it, code can break out of it"
            ),
            "take a newer runc",
        ),
        Ok(version) if program.has_its_own_kernel() => match program.is_young_enough() {
            Ok(true) => Check::good(about, format!("{version}: a kernel for each environment")),
            _ => Check::missing(
                about,
                format!(
                    "{version}: it lets no environment make a socket, through which it is spoken to"
                ),
                "take a newer runsc (one that has the flag --host-uds), or set runtime.binary to runc or crun",
            ),
        },
        Ok(version) => Check::good(about, version),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Check::missing(
            about,
            format!("the OCI runtime `{binary}` is not installed"),
            how_to_install(program.binary()),
        ),
        Err(error) => Check::missing(
            about,
            format!("the OCI runtime `{binary}` does not run: {error}"),
            "set runtime.binary to one that does",
        ),
    }
}

fn how_to_install(binary: &Path) -> String {
    match binary.file_name().and_then(|name| name.to_str()) {
        Some("crun") => "apt-get install crun".to_owned(),
        // Debian's is too old.
        Some("runsc") => {
            "install gVisor as https://gvisor.dev/docs/user_guide/install says".to_owned()
        }
        _ if on_the_path("crun").is_some() => {
            "apt-get install runc, or set runtime.binary to crun, which is there".to_owned()
        }
        _ => "apt-get install runc".to_owned(),
    }
}

fn limits(standing: Standing, cgroups: &Cgroups, program: &Program) -> Check {
    let about = "limits";
    let counts_processes = !program.has_its_own_kernel();
    if standing.is_namespace() {
        return Check::lacking(
            about,
            match counts_processes {
                true => {
                    "an ordinary user: processes are limited; memory and processors of environments are not"
                }
                false => "an ordinary user, and gVisor: environments are not limited",
            },
            "start the service as root where they must be",
        );
    }
    if cgroups.is_empty() {
        return Check::missing(
            about,
            "no cgroups are mounted, so limits cannot be set",
            "mount them at /sys/fs/cgroup",
        );
    }
    match counts_processes {
        true => Check::good(about, "memory, processors and processes, by cgroups"),
        false => Check::lacking(
            about,
            "memory and processors are limited by cgroups; gVisor counts no processes",
            "set runtime.binary to runc or crun where they must be limited",
        ),
    }
}

fn images() -> Check {
    let about = "images";
    let missing: Vec<&str> = image::PROGRAMS
        .into_iter()
        .filter(|program| !is_installed(program))
        .collect();
    if missing.is_empty() {
        return Check::good(about, "images can be fetched and unpacked");
    }
    Check::lacking(
        about,
        format!(
            "only the image `host` can be had without {}",
            missing.join(" and ")
        ),
        format!("apt-get install {}", missing.join(" ")),
    )
}

fn networks() -> Check {
    let about = "network";
    match network::lacking() {
        None => Check::good(about, "environments that ask for it reach the internet"),
        Some((says, mend)) => Check::lacking(about, says, mend),
    }
}

/// Where a program is, as this process would start it.
fn on_the_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|found| found.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_switch_is_named_with_what_opens_it() {
        let machine = |path: &str, value: &str| {
            let (path, value) = (path.to_owned(), value.to_owned());
            move |asked: &str| (asked == path).then(|| value.clone())
        };
        for (path, closing, mend) in SWITCHES {
            let found = closed(&SWITCHES, machine(path, &format!("{closing}\n")));
            assert_eq!(found, Some(mend));
            assert_eq!(closed(&SWITCHES, machine(path, "15\n")), None);
        }
    }

    #[test]
    fn only_what_is_missing_is_a_failure() {
        let missing = Check::missing("a", "no moon", "wait");
        assert_eq!(missing.failure().as_deref(), Some("no moon: wait"));
        assert_eq!(Check::lacking("a", "no moon", "wait").failure(), None);
        for (standing, verdict) in [
            (Standing::Root, Verdict::Good),
            (Standing::Namespace(65_536), Verdict::Good),
            (Standing::Namespace(131_072), Verdict::Good),
            (Standing::Namespace(65_535), Verdict::Missing),
            (Standing::Powerless, Verdict::Missing),
        ] {
            assert_eq!(rights(standing).verdict, verdict, "{standing:?}");
        }
    }
}
