//! What a start that failed looks like in the record.

use std::io;

use crate::command::wire::{Spec, Stage};
use crate::proto::StartError;
use crate::proto::start_error::Kind;

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
