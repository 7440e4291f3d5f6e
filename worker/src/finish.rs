//! Writes down how a job ended, however long the store needs.

use std::sync::Arc;
use std::time::Duration;

use runner::proto::ReleaseRequest;
use shared::job::{Begun, JobState};
use shared::ports::{BlobError, Completion, Lane, StoreError};
use shared::staging::{self, STAGING_BUCKET};

use crate::context::Active;
use crate::execute::Task;
use crate::links::LinkError;
use crate::reach::Backoff;

/// How long a runner may take to forget a job.
const FORGET_TIME: Duration = Duration::from_secs(5);

/// Commits the end of a job. Retried until it is in the store, the lease is lost, or the worker must go.
pub(crate) async fn finish(task: &Task, completion: Completion) {
    let context = &task.context;
    let state = completion.outcome.state;
    let code = completion
        .outcome
        .error
        .as_ref()
        .map(|error| error.code.clone());
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
    loop {
        let commit = context
            .store
            .finish(
                &task.at,
                task.fence(),
                completion.clone(),
                context.clock.now(),
            )
            .await;
        match commit {
            Ok(effects) => {
                context.publish(effects).await;
                break;
            }
            Err(StoreError::Fenced) => {
                tracing::info!(job = %task.at.job, "the end of a job is another's to write");
                return;
            }
            Err(error) => {
                tracing::warn!(job = %task.at.job, %error, "could not write the end of a job yet")
            }
        }
        tokio::select! {
            () = context.hard.cancelled() => return,
            () = backoff.wait() => {}
        }
    }
    let kind = task.job.input.kind().as_str();
    let took = context.clock.now().duration_since(task.job.created_at);
    metrics::counter!("environment_manager_jobs_finished_total", "kind" => kind, "state" => state.as_str()).increment(1);
    metrics::histogram!("environment_manager_job_seconds", "kind" => kind)
        .record(took.as_secs_f64());
    tracing::info!(job = %task.at.job, kind, environment = %task.job.environment, state = state.as_str(), code, "job ended");
    forget_record(task);
    drop_staging(task, state).await;
}

/// Gives the job to any worker that wants it.
pub(crate) async fn hand_back(task: &Task, active: Active, begun: Begun) {
    let context = &task.context;
    let handed = context
        .store
        .hand_back(&task.at, task.fence(), begun, context.clock.now())
        .await;
    // Before the hint is out: an intake of this worker that gets it must not take the job for one that is worked on.
    drop(active);
    match handed {
        Ok(effects) => context.publish(effects).await,
        Err(StoreError::Fenced) => {}
        Err(error) => {
            tracing::warn!(job = %task.at.job, %error, "could not hand back a job; it will be taken over")
        }
    }
}

/// Lets the runner free what it kept of the job, now that the store has its end. In the background: nobody waits for it,
/// and a failure costs only the environment's disk.
fn forget_record(task: &Task) {
    let Some(incarnation) = task.job.incarnation.clone() else {
        return;
    };
    let (context, uid, job_id) = (
        Arc::clone(&task.context),
        task.job.uid.clone(),
        task.at.job.to_string(),
    );
    task.context.jobs.spawn(async move {
        let forget = async {
            let link = context.links.to(&uid, &incarnation, Lane::Control).await;
            let mut link = match link {
                // Started again, it may still have the record.
                Err(LinkError::OtherIncarnation(link)) => *link,
                found => found.ok()?,
            };
            let request = ReleaseRequest {
                job_id,
                stdout_offset: 0,
                stderr_offset: 0,
                forget: true,
            };
            link.client.release(request).await.ok()
        };
        if tokio::time::timeout(FORGET_TIME, forget)
            .await
            .ok()
            .flatten()
            .is_none()
        {
            tracing::debug!(%uid, "the runner keeps a record until its environment goes");
        }
    });
}

/// What was staged for the job is not needed any more, nor are the parts of a read that failed: nobody may read them. A
/// failure is no harm: the sweep removes them by their age.
async fn drop_staging(task: &Task, state: JobState) {
    let parts_of_failed_read = task.job.input.kind().only_reads() && state != JobState::Succeeded;
    if !task.job.input.is_staged() && !parts_of_failed_read {
        return;
    }
    if let Err(error) = drop_all_staged(task).await {
        tracing::debug!(%error, "staged content stays for the sweep");
    }
}

async fn drop_all_staged(task: &Task) -> Result<(), BlobError> {
    let blobs = &task.context.blobs;
    let prefix = staging::prefix(&task.at);
    for entry in blobs.list(STAGING_BUCKET, &prefix).await? {
        blobs.delete(&entry.name).await?;
    }
    Ok(())
}
