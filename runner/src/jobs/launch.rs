//! From a start request to a running supervisor.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions};

use super::Refusal;
use super::cgroup::{Cgroups, JobCgroups};
use super::job::Job;
use super::tree::Pid;
use crate::command::passwd::{self, User};
use crate::command::wire::{self, Spec, Stage};
use crate::proto::start_error::Kind;
use crate::proto::start_request::Command;
use crate::proto::{StartError, StartRequest};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Bytes of names and values of a job's environment together.
const MAX_ENV_BYTES: usize = 1024 * 1024;

/// Who runs commands in this environment, and where.
pub(crate) struct Launcher {
    /// The environment's user.
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// This process may become other users.
    pub(crate) can_switch: bool,
    pub(crate) volume: PathBuf,
    /// The soft limit of open files that this process was started with.
    pub(crate) open_files: u64,
    pub(crate) cgroups: Cgroups,
}

/// A command as asked for, with everything decided but the descriptors.
pub(crate) enum Plan {
    Run(Spec),
    /// Nothing can run, and that is the job's end.
    Fail(StartError),
}

/// A supervisor that has its spec.
pub(crate) struct Launched {
    pub(crate) supervisor: Pid,
    pub(crate) control: UnixStream,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    pub(crate) cgroups: JobCgroups,
}

impl Launcher {
    /// Checks a request and works out what is to run.
    pub(crate) fn plan(&self, request: &StartRequest) -> Result<Plan, Refusal> {
        let users = passwd::users();
        let Some(user) = self.user(&request.user, &users)? else {
            let message = format!("user {:?} does not exist in this environment", request.user);
            return Ok(Plan::Fail(start_error(Kind::UserNotFound, message)));
        };
        let (program, argv) = program_and_argv(request.command.as_ref())?;
        let workdir = self.volume.join(&request.workdir);
        check_text("workdir", &request.workdir)?;
        Ok(Plan::Run(Spec {
            program,
            argv,
            env: self.env(request, &user)?,
            workdir: workdir.into_os_string().into_encoded_bytes(),
            uid: user.uid,
            gid: user.gid,
            open_files: self.open_files,
        }))
    }

    /// The user to run as. `None`: the image has no user of that name.
    fn user(&self, asked: &str, users: &[User]) -> Result<Option<User>, Refusal> {
        let own = nix::unistd::geteuid().as_raw();
        let named = |uid: u32, gid: u32| {
            let name = users
                .iter()
                .find(|user| user.uid == uid)
                .map_or_else(|| uid.to_string(), |user| user.name.clone());
            User { name, uid, gid }
        };
        let default = if self.can_switch {
            named(self.uid, self.gid)
        } else {
            named(own, nix::unistd::getegid().as_raw())
        };
        if asked.is_empty() {
            return Ok(Some(default));
        }
        let found = match asked.parse::<u32>() {
            Ok(uid) => users
                .iter()
                .find(|user| user.uid == uid)
                .cloned()
                .or_else(|| Some(named(uid, self.gid))),
            Err(_) => users.iter().find(|user| user.name == asked).cloned(),
        };
        match found {
            Some(user) if user.uid == default.uid => Ok(Some(default)),
            Some(_) | None if !self.can_switch => Err(Refusal::Invalid(format!(
                "user: only {} can be had in this environment",
                default.name
            ))),
            // A command with the runner's own user could silence it.
            Some(user) if user.uid == 0 || user.uid == own => Err(Refusal::Invalid(format!(
                "user: {asked} is reserved in this environment"
            ))),
            found => Ok(found),
        }
    }

    fn env(&self, request: &StartRequest, user: &User) -> Result<Vec<Vec<u8>>, Refusal> {
        let home = self.volume.as_os_str().as_encoded_bytes();
        let defaults: [(&str, &[u8]); 4] = [
            ("PATH", DEFAULT_PATH.as_bytes()),
            ("HOME", home),
            ("USER", user.name.as_bytes()),
            ("LANG", b"C.UTF-8"),
        ];
        let unset = defaults
            .into_iter()
            .filter(|(name, _)| !request.env.contains_key(*name));
        let mut env: Vec<Vec<u8>> = unset
            .map(|(name, value)| [name.as_bytes(), b"=", value].concat())
            .collect();
        let mut bytes = 0;
        for (name, value) in &request.env {
            bytes += name.len() + value.len();
            check_text("env", name)?;
            check_text("env", value)?;
            if name.is_empty() || name.contains('=') {
                return Err(Refusal::Invalid(
                    "env: a name is empty or has '=' in it".to_owned(),
                ));
            }
            env.push([name.as_bytes(), b"=", value.as_bytes()].concat());
        }
        if bytes > MAX_ENV_BYTES {
            return Err(Refusal::Invalid(format!(
                "env: more than {MAX_ENV_BYTES} bytes"
            )));
        }
        Ok(env)
    }

    /// Starts a supervisor and hands it the job. Blocks until it runs.
    pub(crate) fn launch(&self, job: &Job, spec: &Spec) -> io::Result<Launched> {
        let cgroups = self.cgroups.make(&job.id);
        let launched = launch_in(job, spec, &cgroups);
        match launched {
            Ok((supervisor, control, stdin, stdout, stderr)) => Ok(Launched {
                supervisor,
                control,
                stdin,
                stdout,
                stderr,
                cgroups,
            }),
            Err(error) => {
                self.cgroups.remove(cgroups);
                Err(error)
            }
        }
    }
}

type Ends = (Pid, UnixStream, Option<OwnedFd>, OwnedFd, OwnedFd);

fn launch_in(job: &Job, spec: &Spec, cgroups: &JobCgroups) -> io::Result<Ends> {
    let (stdout, command_stdout) = io::pipe()?;
    let (stderr, command_stderr) = io::pipe()?;
    let (command_stdin, stdin) = if job.stdin.is_empty() {
        (OwnedFd::from(std::fs::File::open("/dev/null")?), None)
    } else {
        let (command_stdin, stdin) = io::pipe()?;
        (command_stdin.into(), Some(stdin.into()))
    };
    let (control, supervisor_control) = UnixStream::pair()?;
    let supervisor = spawn_supervisor(&supervisor_control)?;
    drop(supervisor_control);
    let mut fds = vec![
        command_stdin.as_fd(),
        command_stdout.as_fd(),
        command_stderr.as_fd(),
    ];
    fds.extend(cgroups.procs());
    let sent = wire::send_spec(&control, spec, &fds).and_then(|()| control.set_nonblocking(true));
    if let Err(error) = sent {
        // It reads the end of the file and goes.
        let _ = control.shutdown(Shutdown::Both);
        return Err(error);
    }
    Ok((supervisor, control, stdin, stdout.into(), stderr.into()))
}

/// Starts this program as a supervisor with the socket as its standard input and an empty environment.
fn spawn_supervisor(control: &UnixStream) -> io::Result<Pid> {
    let mut actions = PosixSpawnFileActions::init()?;
    actions.add_dup2(control.as_raw_fd(), 0)?;
    let attributes = PosixSpawnAttr::init()?;
    let no_env: [&std::ffi::CStr; 0] = [];
    let pid = nix::spawn::posix_spawn(
        c"/proc/self/exe",
        &actions,
        &attributes,
        &[c"em-runner", c"supervise"],
        &no_env,
    )?;
    Ok(pid.as_raw())
}

/// What a failed start looks like in the record.
pub(crate) fn describe(stage: Stage, errno: i32, request: &Subject) -> StartError {
    let reason = io::Error::from_raw_os_error(errno);
    let Subject {
        program,
        workdir,
        user,
    } = request;
    match stage {
        Stage::Setup => start_error(Kind::Other, format!("the process cannot be made: {reason}")),
        Stage::User if errno == libc::EINVAL => start_error(
            Kind::UserNotFound,
            format!("user {user} does not exist in this environment"),
        ),
        Stage::User => start_error(
            Kind::Other,
            format!("user {user} cannot be taken: {reason}"),
        ),
        Stage::Workdir => start_error(
            Kind::WorkdirNotFound,
            format!("working directory {workdir}: {reason}"),
        ),
        Stage::Find => start_error(
            Kind::CommandNotFound,
            format!("{program}: command not found"),
        ),
        Stage::Interpreter => start_error(
            Kind::NotExecutable,
            format!("{program}: the interpreter or loader it names does not exist"),
        ),
        Stage::Execute if errno == libc::E2BIG => start_error(
            Kind::Other,
            format!("{program}: arguments and environment are longer than the kernel allows"),
        ),
        Stage::Execute if errno == libc::ENOEXEC => start_error(
            Kind::NotExecutable,
            format!("{program}: neither a program nor a script that names its interpreter"),
        ),
        Stage::Execute if matches!(errno, libc::EACCES | libc::EPERM) => {
            start_error(Kind::NotExecutable, format!("{program}: {reason}"))
        }
        Stage::Execute => start_error(Kind::Other, format!("{program}: {reason}")),
    }
}

/// What the words of a start error are about.
pub(crate) struct Subject {
    program: String,
    workdir: String,
    user: u32,
}

impl From<&Spec> for Subject {
    fn from(spec: &Spec) -> Self {
        let shown =
            |bytes: &[u8]| String::from_utf8_lossy(bytes.get(..256).unwrap_or(bytes)).into_owned();
        Self {
            program: shown(&spec.program),
            workdir: shown(&spec.workdir),
            user: spec.uid,
        }
    }
}

/// A start error of a kind.
pub(crate) fn start_error(kind: Kind, message: String) -> StartError {
    StartError {
        kind: kind.into(),
        message,
    }
}

fn program_and_argv(command: Option<&Command>) -> Result<(Vec<u8>, Vec<Vec<u8>>), Refusal> {
    match command {
        Some(Command::Argv(argv)) => {
            let program = argv.args.first().filter(|program| !program.is_empty());
            let program = program.ok_or_else(|| Refusal::Invalid("argv: empty".to_owned()))?;
            for argument in &argv.args {
                check_text("argv", argument)?;
            }
            Ok((
                program.clone().into_bytes(),
                argv.args
                    .iter()
                    .map(|argument| argument.clone().into_bytes())
                    .collect(),
            ))
        }
        Some(Command::Shell(shell)) => {
            check_text("script", &shell.script)?;
            let bash = if shell.prefer_bash {
                find_program("bash")
            } else {
                None
            };
            let (name, found) = match bash {
                Some(bash) => ("bash", Some(bash)),
                None => ("sh", find_program("sh")),
            };
            let program = found.map_or_else(
                || name.into(),
                |path| path.into_os_string().into_encoded_bytes(),
            );
            Ok((
                program,
                vec![
                    name.into(),
                    b"-c".to_vec(),
                    shell.script.clone().into_bytes(),
                ],
            ))
        }
        None => Err(Refusal::Invalid("command: missing".to_owned())),
    }
}

fn check_text(field: &str, text: &str) -> Result<(), Refusal> {
    if text.contains('\0') {
        Err(Refusal::Invalid(format!("{field}: has a NUL byte")))
    } else {
        Ok(())
    }
}

/// Where the image has a program, whatever PATH the job asks for.
fn find_program(name: &str) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| {
        std::fs::metadata(path)
            .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    DEFAULT_PATH
        .split(':')
        .map(|folder| Path::new(folder).join(name))
        .find(is_program)
}
