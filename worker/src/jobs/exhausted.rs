//! Gives up a job that several workers began and none could end.

use std::time::Duration;

use runner::proto::seal_reply::Fate;
use runner::proto::{SealRequest, SignalRequest};
use shared::environment::{EnvironmentEvent, Reason};
use shared::job::{MAX_ATTEMPTS, Outcome};
use shared::output::{OutputCounts, StreamCounts};
use shared::ports::{Completion, Lane};

use crate::execute::{End, Task};

/// How long the environment gets to confirm that nothing of the job is left.
const ENDING_TIME: Duration = Duration::from_secs(30);

pub(crate) async fn run(task: &Task) -> End {
    let message = format!("{MAX_ATTEMPTS} workers began the job and none could end it");
    let mut outcome = Outcome::failure("attempts_exhausted", message.clone());
    if let Some(incarnation) = &task.job.incarnation {
        match tokio::time::timeout(ENDING_TIME, end(task, incarnation)).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => {
                tracing::warn!(job = %task.at.job, why, "could not end a job that is given up")
            }
            Err(_) => {
                tracing::warn!(job = %task.at.job, "could not end a job that is given up in time")
            }
        }
        if let Ok(end) = task.context.store.output_end(&task.at).await {
            let counts = |total| StreamCounts { total, dropped: 0 };
            outcome.output = OutputCounts {
                stdout: counts(end.stdout),
                stderr: counts(end.stderr),
                incomplete: true,
            };
        }
    }
    // Of a lifecycle job: the environment must not stay on its way for ever.
    let event = task
        .job
        .input
        .kind()
        .lifecycle()
        .map(|_| EnvironmentEvent::Failed(Reason::new("attempts_exhausted", message)));
    End::Finish(Box::new(Completion {
        outcome,
        chunks: Vec::new(),
        event,
        artifact: None,
    }))
}

/// Seals the job and kills what runs of it.
async fn end(task: &Task, incarnation: &shared::ids::Incarnation) -> Result<(), String> {
    let link = task
        .context
        .links
        .to(&task.job.uid, incarnation, Lane::Control)
        .await
        .map_err(|error| error.to_string())?;
    let mut client = link.client;
    let (job_id, fence) = (task.job.id.to_string(), task.fence().0);
    let sealed = client
        .seal(SealRequest {
            job_id: job_id.clone(),
            fence,
        })
        .await
        .map_err(|status| status.to_string())?;
    if matches!(sealed.into_inner().fate, Some(Fate::Record(_))) {
        let signal = SignalRequest {
            job_id,
            fence,
            signal: 0,
            kill: true,
            grace_ms: 1000,
        };
        client
            .signal(signal)
            .await
            .map_err(|status| status.to_string())?;
    }
    Ok(())
}
