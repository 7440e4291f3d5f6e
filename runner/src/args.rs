//! The command line, read by hand: the program is mapped into every environment, so it stays small.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;

/// What one start of the program is asked to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// PID 1 of an environment.
    Init(Settings),
    /// The supervisor of one job; its control socket is descriptor 0.
    Supervise,
    /// Splices standard input and output to the socket at the path.
    Connect(PathBuf),
    /// Copies the program to the folder.
    Install {
        /// Where the program goes.
        folder: PathBuf,
        /// A folder that is made for commands, if it is not there.
        home: Option<PathBuf>,
    },
    /// Prints the version.
    Version,
}

/// Where the gRPC server takes its connections from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Listen {
    /// An open listening Unix socket.
    Fd(RawFd),
    /// A path to make the socket at; it may be longer than the 108 bytes of a socket address.
    Path(PathBuf),
}

/// The settings of `init`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Folder of records and logs; it is made when it is missing.
    pub(crate) state: PathBuf,
    pub(crate) listen: Listen,
    /// The volume: HOME and working directory of commands, base of relative paths.
    pub(crate) volume: PathBuf,
    /// User id of commands and file operations; that of PID 1 where none is named.
    pub(crate) uid: Option<u32>,
    /// Group id of commands and file operations; that of PID 1 where none is named.
    pub(crate) gid: Option<u32>,
    /// `NAME=value` each: the image's variables, defaults of every command.
    pub(crate) image_env: Vec<OsString>,
    /// The cgroups that the runtime made.
    pub(crate) cgroups: CgroupFds,
    /// Processes and threads that each user of this environment may have, where no cgroup counts them.
    pub(crate) processes: Option<u64>,
}

/// Descriptors of cgroups.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct CgroupFds {
    /// A delegated cgroup v2 directory, for the trees of jobs.
    pub(crate) trees: Option<RawFd>,
    /// A delegated directory of the memory hierarchy (v1, or the v2 directory again), to count OOM kills by job.
    pub(crate) memory: Option<RawFd>,
    /// A delegated directory of the hierarchy of processor time (v1, or the v2 directory again), to share it by job.
    pub(crate) cpu: Option<RawFd>,
    /// Open `cgroup.procs` files of what PID 1 moves into before anything else.
    pub(crate) own: Vec<RawFd>,
    /// Open `cgroup.procs` files of what every command joins.
    pub(crate) commands: Vec<RawFd>,
}

/// A command line that means nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArgsError {
    #[error("expected one of: init, connect, install, --version")]
    NoCommand,
    #[error("unknown argument {0:?}")]
    Unknown(OsString),
    #[error("{0} needs a value")]
    NoValue(&'static str),
    #[error("{0} takes a number, not {1:?}")]
    NotANumber(&'static str, OsString),
    #[error("init needs {0}")]
    Missing(&'static str),
}

/// Reads the arguments that follow the program's name.
pub(crate) fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Command, ArgsError> {
    let command = arguments.next().ok_or(ArgsError::NoCommand)?;
    let parsed = match command.to_str() {
        Some("init") => return parse_init(arguments).map(Command::Init),
        Some("supervise") => Command::Supervise,
        Some("connect") => Command::Connect(path("connect", &mut arguments)?),
        Some("install") => Command::Install {
            folder: path("install", &mut arguments)?,
            home: arguments.next().map(PathBuf::from),
        },
        Some("--version") => Command::Version,
        _ => return Err(ArgsError::Unknown(command)),
    };
    arguments
        .next()
        .map_or(Ok(parsed), |extra| Err(ArgsError::Unknown(extra)))
}

fn path(
    command: &'static str,
    arguments: &mut impl Iterator<Item = OsString>,
) -> Result<PathBuf, ArgsError> {
    let path = arguments.next().ok_or(ArgsError::NoValue(command))?;
    Ok(path.into())
}

fn parse_init(mut arguments: impl Iterator<Item = OsString>) -> Result<Settings, ArgsError> {
    let (mut state, mut listen, mut volume, mut uid, mut gid) = (None, None, None, None, None);
    let (mut cgroups, mut processes) = (CgroupFds::default(), None);
    let mut image_env = Vec::new();
    while let Some(name) = arguments.next() {
        let mut value = |flag| arguments.next().ok_or(ArgsError::NoValue(flag));
        match name.to_str() {
            Some("--state") => state = Some(PathBuf::from(value("--state")?)),
            Some("--listen") => listen = Some(Listen::Path(value("--listen")?.into())),
            Some("--listen-fd") => {
                listen = Some(Listen::Fd(number("--listen-fd", value("--listen-fd")?)?));
            }
            Some("--volume") => volume = Some(PathBuf::from(value("--volume")?)),
            Some("--env") => image_env.push(value("--env")?),
            Some("--uid") => uid = Some(number("--uid", value("--uid")?)?),
            Some("--gid") => gid = Some(number("--gid", value("--gid")?)?),
            Some("--cgroup-fd") => {
                cgroups.trees = Some(number("--cgroup-fd", value("--cgroup-fd")?)?);
            }
            Some("--memory-cgroup-fd") => {
                cgroups.memory = Some(number("--memory-cgroup-fd", value("--memory-cgroup-fd")?)?);
            }
            Some("--cpu-cgroup-fd") => {
                cgroups.cpu = Some(number("--cpu-cgroup-fd", value("--cpu-cgroup-fd")?)?);
            }
            Some("--own-procs-fd") => {
                let own = number("--own-procs-fd", value("--own-procs-fd")?)?;
                cgroups.own.push(own);
            }
            Some("--command-procs-fd") => {
                let commands = number("--command-procs-fd", value("--command-procs-fd")?)?;
                cgroups.commands.push(commands);
            }
            Some("--processes") => processes = Some(number("--processes", value("--processes")?)?),
            _ => return Err(ArgsError::Unknown(name)),
        }
    }
    Ok(Settings {
        state: state.ok_or(ArgsError::Missing("--state"))?,
        listen: listen.ok_or(ArgsError::Missing("--listen or --listen-fd"))?,
        volume: volume.ok_or(ArgsError::Missing("--volume"))?,
        uid,
        gid,
        image_env,
        cgroups,
        processes,
    })
}

fn number<T: std::str::FromStr>(flag: &'static str, value: OsString) -> Result<T, ArgsError> {
    value
        .to_str()
        .and_then(|text| text.parse().ok())
        .ok_or(ArgsError::NotANumber(flag, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &[&str]) -> Result<Command, ArgsError> {
        parse(words.iter().map(OsString::from))
    }

    #[test]
    fn init_takes_every_flag() {
        let words = [
            "init",
            "--state",
            "/s",
            "--listen-fd",
            "3",
            "--volume",
            "/app",
            "--uid",
            "1000",
            "--gid",
            "100",
        ];
        let cgroups = [
            ["--cgroup-fd", "4", "--memory-cgroup-fd", "5"],
            ["--own-procs-fd", "6", "--own-procs-fd", "7"],
            ["--command-procs-fd", "8", "--cpu-cgroup-fd", "9"],
        ];
        let words = [&words[..], &cgroups.concat()].concat();
        let words = [&words[..], &["--processes", "64"]].concat();
        let words = [&words[..], &["--env", "A=b=c", "--env", "D="]].concat();
        let expected = Settings {
            state: "/s".into(),
            listen: Listen::Fd(3),
            volume: "/app".into(),
            uid: Some(1000),
            gid: Some(100),
            image_env: vec!["A=b=c".into(), "D=".into()],
            cgroups: CgroupFds {
                trees: Some(4),
                memory: Some(5),
                cpu: Some(9),
                own: vec![6, 7],
                commands: vec![8],
            },
            processes: Some(64),
        };
        assert_eq!(parse_words(&words), Ok(Command::Init(expected)));
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(parse_words(&[]), Err(ArgsError::NoCommand));
        assert_eq!(
            parse_words(&["init", "--state", "/s"]),
            Err(ArgsError::Missing("--listen or --listen-fd"))
        );
        assert_eq!(
            parse_words(&["init", "--uid", "x"]),
            Err(ArgsError::NotANumber("--uid", "x".into()))
        );
        assert_eq!(
            parse_words(&["init", "--uid"]),
            Err(ArgsError::NoValue("--uid"))
        );
        assert_eq!(
            parse_words(&["connect", "/a", "b"]),
            Err(ArgsError::Unknown("b".into()))
        );
        assert_eq!(
            parse_words(&["install"]),
            Err(ArgsError::NoValue("install"))
        );
    }
}
