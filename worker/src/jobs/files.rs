//! What all file jobs share: one call to the runner, repeated over broken connections, and its errors in our words.
//!
//! A mutation carries the lease's permit, and the runner does it at most once per job id, so repeating the call is safe.
//! A runner that takes a call and then says nothing does not hold the job for ever: each answer and each piece has its time.
//! After a takeover the job is sealed first: a worker that was frozen in the middle cannot write any more. Where PID 1 was
//! started again meanwhile, a change that is proven not to have begun is begun in the new start; of another nobody knows
//! whether it was made, and that is said.

use std::future::Future;
use std::time::Duration;

use prost::Message as _;
use runner::proto::seal_reply::Fate;
use runner::proto::{FileError, FileErrorCode, FileType, Permit, SealReply, SealRequest};
use shared::ids::Incarnation;
use shared::job::{Begun, CancelRequest, EntryType, JobError, JobState, Outcome};
use shared::ports::Lane;
use tonic::{Code, Status};

use crate::distrust::RUNNER_MISBEHAVED;
use crate::execute::{End, Task};
use crate::links::{Client, Link};
use crate::reach::{Backoff, Unreached, is_answer, reach};
use crate::restart;

pub(super) mod keep;
pub(super) mod read;
pub(super) mod send;

/// How long the runner may take to seal a job: it waits for a change that is being made.
const SEAL_TIME: Duration = Duration::from_secs(60);

/// How long a file job without contact to its environment is tried.
const NO_CONTACT_TIME: Duration = Duration::from_secs(60);

/// How long the runner may take for the next thing that it has to say.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(60);

/// How long a change that goes on after its job was cancelled may take to end.
const CANCEL_TIME: Duration = Duration::from_secs(15);

/// The code of jobs whose runner says nothing.
pub(super) const NO_ANSWER: &str = "no_answer";

/// Whether an operation changes the environment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Reads,
    Changes,
}

/// Why an operation did not succeed.
pub(super) enum Failure {
    /// The connection broke, or the runner answered with an error.
    Status(Status),
    /// Something else ended the job.
    End(End),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl Failure {
    /// A failure of the job.
    pub(super) fn job(code: &str, message: impl Into<String>) -> Self {
        Self::End(End::outcome(Outcome::failure(code, message)))
    }

    /// The runner did not keep its contract.
    pub(super) fn misbehaved(message: &str) -> Self {
        Self::job(
            RUNNER_MISBEHAVED,
            format!("the environment's runner answered wrongly: {message}"),
        )
    }
}

/// Runs an operation on the environment until it is done, has failed, or the job is cancelled.
pub(super) async fn run<F, Fut>(task: &Task, lane: Lane, effect: Effect, operation: F) -> End
where
    F: Fn(Client, Permit) -> Fut,
    Fut: Future<Output = Result<End, Failure>>,
{
    let Some(incarnation) = task.job.incarnation.clone() else {
        return End::outcome(Outcome::failure(
            "environment_failed",
            "the environment was not running when the job began",
        ));
    };
    let work = repeat(task, &incarnation, lane, effect, operation);
    match effect {
        Effect::Changes => tokio::select! {
            end = work => end,
            end = cancelled_in_vain(task) => end,
        },
        Effect::Reads => tokio::select! {
            end = work => end,
            request = task.cancelled() => cancelled(request),
        },
    }
}

async fn repeat<F, Fut>(
    task: &Task,
    incarnation: &Incarnation,
    lane: Lane,
    effect: Effect,
    operation: F,
) -> End
where
    F: Fn(Client, Permit) -> Fut,
    Fut: Future<Output = Result<End, Failure>>,
{
    let mut maybe_done = task.is_resumed() && effect == Effect::Changes;
    // The wait for others' transfers is not one without contact.
    let _slot = match lane {
        Lane::Control => None,
        Lane::Bulk => tokio::select! {
            slot = task.context.links.slot(&task.job.uid) => Some(slot),
            request = task.cancelled(), if !maybe_done => return cancelled(request),
        },
    };
    let until = task.context.clock.monotonic() + NO_CONTACT_TIME;
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
    loop {
        let link = match reach(task, incarnation, lane, until).await {
            Ok(link) => link,
            Err(Unreached::Gone(reason)) => return gone(task, &reason.message, maybe_done).await,
            Err(Unreached::Replaced(link)) => {
                match replaced(task, incarnation, &link, maybe_done).await {
                    Ok(end) => return end,
                    Err(why) if task.context.clock.monotonic() >= until => {
                        return gone(task, &why, maybe_done).await;
                    }
                    Err(_) => {
                        task.context.links.forget(&task.job.uid, lane, &link);
                        backoff.wait().await;
                        continue;
                    }
                }
            }
            Err(Unreached::TooLong(why)) => return gone(task, &why, maybe_done).await,
        };
        let permit = Permit {
            job_id: task.at.job.to_string(),
            fence: task.fence().0,
            incarnation: incarnation.to_string(),
        };
        let failure = match attempt(task, &link, maybe_done, permit, &operation).await {
            Ok(end) => return end,
            Err(failure) => failure,
        };
        let status = match failure {
            Failure::End(end) => return end,
            Failure::Status(status) => status,
        };
        if let Some(end) = answered(&status) {
            return end;
        }
        if status.code() == Code::DeadlineExceeded {
            return silent(task, status.message(), effect).await;
        }
        maybe_done |= effect == Effect::Changes;
        task.context.links.forget(&task.job.uid, lane, &link);
        if task.context.clock.monotonic() >= until {
            return gone(task, status.message(), maybe_done).await;
        }
        backoff.wait().await;
    }
}

async fn attempt<F, Fut>(
    task: &Task,
    link: &Link,
    seal: bool,
    permit: Permit,
    operation: &F,
) -> Result<End, Failure>
where
    F: Fn(Client, Permit) -> Fut,
    Fut: Future<Output = Result<End, Failure>>,
{
    if seal {
        sealed(task, link, &permit.incarnation).await?;
    }
    operation(link.client.clone(), permit).await
}

/// Raises the runner's floor to this lease's fence, once what is being changed under a lower one is done.
async fn sealed(task: &Task, link: &Link, incarnation: &str) -> Result<SealReply, Status> {
    let mut request = tonic::Request::new(SealRequest {
        job_id: task.at.job.to_string(),
        fence: task.fence().0,
        incarnation: incarnation.to_owned(),
    });
    request.set_timeout(SEAL_TIME);
    let reply = link.client.clone().seal(request).await?;
    Ok(reply.into_inner())
}

/// The runner's answer, or an error once it has taken too long.
pub(super) async fn in_time<T>(
    time: Duration,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    tokio::time::timeout(time, answer)
        .await
        .unwrap_or_else(|_| {
            let seconds = time.as_secs();
            let message = format!("the environment did not answer within {seconds} s");
            Err(Status::deadline_exceeded(message))
        })
}

/// What an error of the runner means; nothing if it came from a broken connection.
fn answered(status: &Status) -> Option<End> {
    if let Some(error) = file_error(status) {
        return Some(End::outcome(Outcome::failure(
            code_of(error.code()),
            error.message,
        )));
    }
    match status.code() {
        Code::Aborted => Some(End::Dropped),
        _ if is_answer(status) => Some(End::outcome(Outcome::failure(
            "file_refused",
            status.message(),
        ))),
        _ => None,
    }
}

fn file_error(status: &Status) -> Option<FileError> {
    let details = status.details();
    if details.is_empty() {
        None
    } else {
        FileError::decode(details)
            .ok()
            .filter(|error| error.code != 0)
    }
}

fn code_of(code: FileErrorCode) -> &'static str {
    match code {
        FileErrorCode::NotFound => "file_not_found",
        FileErrorCode::NotADirectory => "not_a_directory",
        FileErrorCode::IsADirectory => "is_a_directory",
        FileErrorCode::NotARegularFile => "not_a_regular_file",
        FileErrorCode::PermissionDenied => "permission_denied",
        FileErrorCode::NameTooLong => "name_too_long",
        FileErrorCode::NoSpace => "no_space",
        FileErrorCode::DirectoryNotEmpty => "directory_not_empty",
        FileErrorCode::TooManyLinks => "too_many_links",
        FileErrorCode::RangeNotSatisfiable => "range_not_satisfiable",
        FileErrorCode::ChangedWhileRead => "changed_while_read",
        FileErrorCode::ReadOnly => "read_only",
        FileErrorCode::InvalidPath => "invalid_path",
        FileErrorCode::AlreadyExists => "already_exists",
        FileErrorCode::OtherFileSystem => "other_file_system",
        FileErrorCode::ArchiveRefused => "archive_refused",
        FileErrorCode::FileIo | FileErrorCode::Unspecified => "file_io",
    }
}

/// The end of a job that was cancelled.
pub(super) fn cancelled(request: CancelRequest) -> End {
    let error = JobError::new(request.code, request.message);
    End::outcome(Outcome::ended(JobState::Cancelled, error))
}

/// Returns when a change was asked to end, and has not.
async fn cancelled_in_vain(task: &Task) -> End {
    let request = task.cancelled().await;
    tokio::time::sleep(CANCEL_TIME).await;
    cancelled(request)
}

/// The runner took the call and says nothing. That is no lie: where processor or disk are short, all is slow.
async fn silent(task: &Task, why: &str, effect: Effect) -> End {
    if let Some(request) = task.requested_cancel().await {
        return cancelled(request);
    }
    match effect {
        Effect::Reads => End::outcome(Outcome::failure(NO_ANSWER, why)),
        Effect::Changes => End::outcome(Outcome::ended(
            JobState::Lost,
            JobError::new(
                NO_ANSWER,
                format!("the change may or may not have been made: {why}"),
            ),
        )),
    }
}

/// Another start of PID 1 answers: what was not begun is begun there, if the environment goes on. An error says why that
/// cannot be known now.
async fn replaced(
    task: &Task,
    gone_one: &Incarnation,
    link: &Link,
    maybe_done: bool,
) -> Result<End, String> {
    let (environment, generation) = (&task.environment, task.job.generation);
    let noted = restart::noted(&task.context, environment, generation, gone_one, link).await?;
    if noted.is_none() {
        return Ok(gone(task, "it was restarted", maybe_done).await);
    }
    if maybe_done {
        let sealed = match sealed(task, link, &gone_one.to_string()).await {
            Ok(sealed) => sealed,
            Err(status) if status.code() == Code::Aborted => return Ok(End::Dropped),
            Err(status) => return Err(status.message().to_owned()),
        };
        let never = matches!(sealed.fate, Some(Fate::NeverStarted(never)) if never.proven);
        if !never {
            return Ok(gone(task, "it was restarted", maybe_done).await);
        }
    }
    Ok(match task.requested_cancel().await {
        Some(request) => cancelled(request),
        None => End::HandBack(Begun::Never),
    })
}

/// The environment went, or cannot be reached: a change may or may not have been made, and that is said.
async fn gone(task: &Task, why: &str, maybe_done: bool) -> End {
    if let Some(request) = task.requested_cancel().await {
        return cancelled(request);
    }
    if maybe_done {
        let message = format!(
            "the environment went away and the change may or may not have been made: {why}"
        );
        return End::outcome(Outcome::ended(
            JobState::Lost,
            JobError::new("environment_gone", message),
        ));
    }
    let message = format!("the environment went away before it was done: {why}");
    End::outcome(Outcome::failure("environment_failed", message))
}

/// A file's type in our words.
pub(super) fn entry_type(kind: FileType) -> EntryType {
    match kind {
        FileType::File => EntryType::File,
        FileType::Directory => EntryType::Directory,
        FileType::Symlink => EntryType::Symlink,
        FileType::OtherFile | FileType::Unspecified => EntryType::Other,
    }
}

/// A time from the runner; the epoch where it is none.
pub(super) fn time(nanoseconds: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}
