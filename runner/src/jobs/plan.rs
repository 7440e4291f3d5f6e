//! From a start request to what is to run: everything that is decided before there is a process.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::Refusal;
use super::failure::start_error;
use super::launch::Launcher;
use crate::command::passwd::{self, User};
use crate::command::wire::Spec;
use crate::proto::start_error::Kind;
use crate::proto::start_request::Command;
use crate::proto::{StartError, StartRequest};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The number that tells the kernel to keep a user or group as it is.
const UNCHANGED: u32 = u32::MAX;

/// Bytes of names and values of a job's environment together.
const MAX_ENV_BYTES: usize = 1024 * 1024;

/// A command as asked for, with everything decided but the descriptors.
pub(crate) enum Plan {
    Run(Spec),
    /// Nothing can run, and that is the job's end.
    Fail(StartError),
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
            // A command with the runner's own user could silence it; so could one of a number that tells the kernel to
            // change nothing.
            Some(user) if [0, own, UNCHANGED].contains(&user.uid) || user.gid == UNCHANGED => Err(
                Refusal::Invalid(format!("user: {asked} is reserved in this environment")),
            ),
            found => Ok(found),
        }
    }

    /// The request's variables, over HOME and USER, over the image's, over defaults.
    fn env(&self, request: &StartRequest, user: &User) -> Result<Vec<Vec<u8>>, Refusal> {
        let mut inherited: BTreeMap<&[u8], &[u8]> = BTreeMap::from([
            (&b"PATH"[..], DEFAULT_PATH.as_bytes()),
            (b"LANG", b"C.UTF-8"),
        ]);
        inherited.extend(self.image_env.iter().filter_map(|variable| {
            let bytes = variable.as_bytes();
            let equals = bytes.iter().position(|byte| *byte == b'=')?;
            Some((bytes.get(..equals)?, bytes.get(equals + 1..)?))
        }));
        inherited.insert(b"HOME", self.volume.as_os_str().as_bytes());
        inherited.insert(b"USER", user.name.as_bytes());
        for name in request.env.keys() {
            inherited.remove(name.as_bytes());
        }
        let mut env: Vec<Vec<u8>> = inherited
            .into_iter()
            .map(|(name, value)| [name, b"=", value].concat())
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
