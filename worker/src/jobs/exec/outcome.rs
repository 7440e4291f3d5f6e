//! What the runner's record of a command means for its job. Pure; nothing here makes up an exit code.

use runner::proto::job_record::Exit;
use runner::proto::start_error::Kind;
use runner::proto::{Cause, JobPhase, JobRecord};
use shared::environment::Reason;
use shared::ids::JobId;
use shared::job::{CancelRequest, ExecResult, JobError, JobResult, JobState, Outcome, Preview};
use shared::output::{OutputCounts, StreamCounts};

use super::copier::MAX_COUNT;
use crate::distrust::RUNNER_MISBEHAVED;
use crate::jobs::last_resort::ENVIRONMENT_KILLED;

/// Whether a final record can be one of this job; the error says what is wrong with it.
pub(super) fn sound(record: &JobRecord, job: &JobId) -> Result<(), String> {
    let exit_can_be = match record.exit {
        Some(Exit::Code(code)) => code <= 255,
        Some(Exit::Signal(signal)) => (1..=64).contains(&signal),
        None => true,
    };
    if record.job_id != job.to_string() {
        Err("the record of another job".to_owned())
    } else if record.phase() != JobPhase::Ended {
        Err("the last record of a command that has not ended".to_owned())
    } else if !exit_can_be {
        Err("an exit that cannot be".to_owned())
    } else if record.duration_ms > MAX_COUNT {
        Err("a duration that cannot be".to_owned())
    } else {
        Ok(())
    }
}

/// The outcome of a command whose record is final.
pub(super) fn of_record(
    record: &JobRecord,
    cancel: Option<&CancelRequest>,
    restarted: Option<&Reason>,
    previews: (Preview, Preview),
) -> Outcome {
    let (exit_code, signal) = match record.exit {
        Some(Exit::Code(code)) => (Some(code), None),
        Some(Exit::Signal(signal)) => (None, Some(signal)),
        None => (None, None),
    };
    let (state, error) = verdict(record, cancel, restarted);
    let ended_by_us = matches!(record.cause(), Cause::Cancelled | Cause::TimedOut);
    let result = (record.cause() != Cause::StartFailed).then(|| {
        JobResult::Exec(ExecResult {
            exit_code,
            signal,
            stdout: previews.0,
            stderr: previews.1,
            duration_ms: record.duration_ms,
            confirmed: ended_by_us.then_some(record.tree_confirmed_gone),
        })
    });
    let counts = |counts: Option<runner::proto::StreamCounts>| {
        let counts = counts.unwrap_or_default();
        StreamCounts {
            total: counts.total,
            dropped: counts.tail_start.saturating_sub(counts.head),
        }
    };
    let incomplete = matches!(record.cause(), Cause::RunnerRestarted);
    let output = OutputCounts {
        stdout: counts(record.stdout),
        stderr: counts(record.stderr),
        incomplete,
    };
    Outcome {
        state,
        result,
        error,
        output,
    }
}

fn verdict(
    record: &JobRecord,
    cancel: Option<&CancelRequest>,
    restarted: Option<&Reason>,
) -> (JobState, Option<JobError>) {
    let failed =
        |code: &str, message: String| (JobState::Failed, Some(JobError::new(code, message)));
    match record.cause() {
        Cause::Exited => match record.exit {
            Some(Exit::Code(0)) => (JobState::Succeeded, None),
            Some(_) if record.oom_kills > 0 => failed(
                "oom_killed",
                "the kernel killed a process of it for memory".to_owned(),
            ),
            Some(Exit::Code(code)) => {
                failed("exit_nonzero", format!("the command exited with {code}"))
            }
            Some(Exit::Signal(signal)) => {
                failed("killed", format!("signal {signal} ended the command"))
            }
            None => failed(
                RUNNER_MISBEHAVED,
                "the environment's runner does not say how the command ended".to_owned(),
            ),
        },
        Cause::Cancelled => {
            let error = cancel.map_or_else(
                || JobError::new("cancelled", "the job was cancelled"),
                |request| JobError::new(request.code.clone(), request.message.clone()),
            );
            (JobState::Cancelled, Some(error))
        }
        Cause::TimedOut => (
            JobState::TimedOut,
            Some(JobError::new(
                "timed_out",
                "the command was ended at its deadline",
            )),
        ),
        Cause::StartFailed => {
            let error = record.start_error.clone().unwrap_or_default();
            failed(start_code(error.kind()), error.message)
        }
        Cause::RunnerRestarted => match restarted {
            Some(reason) if reason.code == "oom_killed" => {
                failed(&reason.code, reason.message.clone())
            }
            Some(reason) => failed(
                "environment_restarted",
                format!(
                    "the environment was restarted under the command: {}",
                    reason.message
                ),
            ),
            None => failed(
                "environment_restarted",
                "the environment was restarted under the command".to_owned(),
            ),
        },
        Cause::SupervisorLost => failed(
            "supervisor_lost",
            "the command's supervisor was killed from inside".to_owned(),
        ),
        Cause::Unspecified => failed(
            RUNNER_MISBEHAVED,
            "the environment's runner gives no cause".to_owned(),
        ),
    }
}

fn start_code(kind: Kind) -> &'static str {
    match kind {
        Kind::CommandNotFound => "command_not_found",
        Kind::NotExecutable => "not_executable",
        Kind::WorkdirNotFound => "workdir_not_found",
        Kind::UserNotFound => "user_not_found",
        Kind::Unspecified | Kind::Other => "start_failed",
    }
}

/// State and error of a command whose incarnation is proven gone.
pub(super) fn of_gone(
    reason: &Reason,
    cancel: Option<&CancelRequest>,
    killed: bool,
    maybe_started: bool,
) -> (JobState, JobError) {
    if let Some(request) = cancel {
        return (
            JobState::Cancelled,
            JobError::new(request.code.clone(), request.message.clone()),
        );
    }
    if killed {
        let message =
            "another command's end was not confirmed in time, so the environment was killed";
        return (JobState::Failed, JobError::new(ENVIRONMENT_KILLED, message));
    }
    if !maybe_started {
        let message = format!(
            "the environment went before the command began: {}",
            reason.message
        );
        return (
            JobState::Failed,
            JobError::new("environment_failed", message),
        );
    }
    if reason.code == "oom_killed" {
        return (
            JobState::Failed,
            JobError::new("oom_killed", reason.message.clone()),
        );
    }
    (
        JobState::Lost,
        JobError::new(
            "environment_gone",
            format!("the environment went away: {}", reason.message),
        ),
    )
}

/// State and error of a command whose end nobody confirmed.
pub(super) fn of_unconfirmed(cancel: Option<&CancelRequest>) -> (JobState, JobError) {
    match cancel {
        Some(request) => (
            JobState::Cancelled,
            JobError::new(request.code.clone(), request.message.clone()),
        ),
        None => (
            JobState::TimedOut,
            JobError::new("timed_out", "the command's end was not confirmed in time"),
        ),
    }
}

/// The result of a command whose end nobody confirmed.
pub(super) fn unconfirmed(previews: (Preview, Preview)) -> JobResult {
    JobResult::Exec(ExecResult {
        exit_code: None,
        signal: None,
        stdout: previews.0,
        stderr: previews.1,
        duration_ms: 0,
        confirmed: Some(false),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(cause: Cause, exit: Option<Exit>, oom_kills: u64) -> JobRecord {
        JobRecord {
            cause: cause.into(),
            exit,
            oom_kills,
            ..Default::default()
        }
    }

    fn state_and_code(record: &JobRecord) -> (JobState, Option<String>) {
        let outcome = of_record(record, None, None, Default::default());
        (outcome.state, outcome.error.map(|error| error.code))
    }

    #[test]
    fn every_cause_has_its_own_verdict() {
        let failed = |code: &str| (JobState::Failed, Some(code.to_owned()));
        let cases = [
            (
                record(Cause::Exited, Some(Exit::Code(0)), 0),
                (JobState::Succeeded, None),
            ),
            (
                record(Cause::Exited, Some(Exit::Code(0)), 1),
                (JobState::Succeeded, None),
            ),
            (
                record(Cause::Exited, Some(Exit::Code(3)), 0),
                failed("exit_nonzero"),
            ),
            (
                record(Cause::Exited, Some(Exit::Code(137)), 1),
                failed("oom_killed"),
            ),
            (
                record(Cause::Exited, Some(Exit::Signal(9)), 1),
                failed("oom_killed"),
            ),
            (
                record(Cause::Exited, Some(Exit::Signal(9)), 0),
                failed("killed"),
            ),
            (record(Cause::Exited, None, 0), failed(RUNNER_MISBEHAVED)),
            (
                record(Cause::TimedOut, None, 0),
                (JobState::TimedOut, Some("timed_out".to_owned())),
            ),
            (
                record(Cause::Cancelled, None, 0),
                (JobState::Cancelled, Some("cancelled".to_owned())),
            ),
            (
                record(Cause::RunnerRestarted, None, 0),
                failed("environment_restarted"),
            ),
            (record(Cause::StartFailed, None, 0), failed("start_failed")),
            (
                record(Cause::SupervisorLost, None, 0),
                failed("supervisor_lost"),
            ),
            (
                record(Cause::Unspecified, Some(Exit::Code(0)), 0),
                failed(RUNNER_MISBEHAVED),
            ),
        ];
        for (record, expected) in cases {
            assert_eq!(state_and_code(&record), expected, "{record:?}");
        }
    }

    #[test]
    fn records_that_cannot_be_are_refused() {
        let job = "01900000-0000-7000-8000-000000000001"
            .parse::<JobId>()
            .expect("an id");
        let good = JobRecord {
            job_id: job.to_string(),
            phase: JobPhase::Ended.into(),
            exit: Some(Exit::Code(255)),
            ..Default::default()
        };
        assert_eq!(sound(&good, &job), Ok(()));
        let wrong: [fn(&mut JobRecord); 6] = [
            |record| record.job_id = "another".to_owned(),
            |record| record.phase = JobPhase::Running.into(),
            |record| record.exit = Some(Exit::Code(256)),
            |record| record.exit = Some(Exit::Signal(0)),
            |record| record.exit = Some(Exit::Signal(65)),
            |record| record.duration_ms = u64::MAX,
        ];
        for spoil in wrong {
            let mut record = good.clone();
            spoil(&mut record);
            assert!(sound(&record, &job).is_err(), "{record:?}");
        }
    }

    #[test]
    fn a_restart_for_want_of_memory_is_told_as_such() {
        let restarted = record(Cause::RunnerRestarted, None, 0);
        for (reason, code) in [
            ("oom_killed", "oom_killed"),
            ("exited", "environment_restarted"),
        ] {
            let reason = Reason::new(reason, "so it was");
            let outcome = of_record(&restarted, None, Some(&reason), Default::default());
            let error = outcome.error.unwrap();
            assert_eq!(
                (outcome.state, error.code.as_str()),
                (JobState::Failed, code)
            );
            assert!(error.message.contains("so it was"), "{}", error.message);
        }
    }

    #[test]
    fn a_command_that_may_have_run_is_lost_and_one_that_did_not_failed() {
        let reason = Reason::new("exited", "PID 1 has ended");
        assert_eq!(of_gone(&reason, None, false, true).0, JobState::Lost);
        assert_eq!(
            of_gone(&reason, None, false, false).1.code,
            "environment_failed"
        );
        assert_eq!(
            of_gone(&reason, None, true, true).1.code,
            ENVIRONMENT_KILLED
        );
    }
}
