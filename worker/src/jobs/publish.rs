//! Copies a file out of the environment and indexes it: the object first, then, with the job's end, its artifact.
//!
//! A crash between the two leaves an object without an index entry, never the other way; the repeated job writes the
//! same object and makes the same artifact, since its id comes from the job's.

use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt as _;
use shared::artifact::Artifact;
use shared::ids::ArtifactId;
use shared::job::{JobResult, Outcome, PublishInput};
use shared::ports::{BlobError, BlobInfo, BlobName, BlobStream, Completion, Lane};
use tonic::Status;

use crate::execute::{End, Task};
use crate::failpoint::failpoint;
use crate::jobs::files::read::{self, FileBytes};
use crate::jobs::files::{self, Effect, Failure};

/// What broke the bytes on their way out of the environment.
type Breakage = Arc<Mutex<Option<Status>>>;

pub(crate) async fn run(task: &Task, input: &PublishInput) -> End {
    let name = match BlobName::new(input.bucket.clone(), input.destination.clone()) {
        Ok(name) => name,
        Err(error) => {
            return End::outcome(Outcome::failure("invalid_destination", error.to_string()));
        }
    };
    let name = &name;
    files::run(
        task,
        Lane::Bulk,
        Effect::Reads,
        |client, _permit| async move {
            let (head, bytes) = read::open(client, &input.path, read::most(task)).await?;
            let breakage = Breakage::default();
            let put = task.context.blobs.put(name, noting(bytes, &breakage)).await;
            failpoint("object_written");
            match put {
                Ok(info) if info.size == head.length => {
                    Ok(End::Finish(Box::new(completion(task, input, name, info))))
                }
                Ok(_) => Err(Failure::misbehaved(
                    "the file has another length than it said",
                )),
                Err(error) => Err(
                    match breakage
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .take()
                    {
                        Some(status) => Failure::Status(status),
                        None => refused(&error),
                    },
                ),
            }
        },
    )
    .await
}

fn refused(error: &BlobError) -> Failure {
    let code = match error {
        BlobError::BadName(_) => "invalid_destination",
        _ => "blobs_unavailable",
    };
    Failure::job(code, error.to_string())
}

/// The bytes as the blob store takes them; what broke them is kept beside.
fn noting(bytes: FileBytes, breakage: &Breakage) -> BlobStream {
    let breakage = Arc::clone(breakage);
    let note = move |status: Status| {
        let error = BlobError::Source(status.message().to_owned());
        *breakage.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
        error
    };
    bytes.map(move |piece| piece.map_err(&note)).boxed()
}

fn completion(task: &Task, input: &PublishInput, name: &BlobName, info: BlobInfo) -> Completion {
    let id = ArtifactId::of_publish(&task.job.id);
    let uri = task.context.blobs.uri(name);
    let artifact = Artifact {
        id: id.clone(),
        tenant: task.job.tenant.clone(),
        job: task.job.id,
        environment: task.job.environment.clone(),
        path: input.path.clone(),
        bucket: name.bucket().to_owned(),
        object: name.object().to_owned(),
        uri: uri.clone(),
        size: info.size,
        sha256: info.sha256.clone(),
        created_at: task.context.clock.now(),
        agent_name: task.context.agent_name.clone(),
        execution_plan_id: input.execution_plan_id.clone(),
        task_id: input.task_id.clone(),
        metadata: input.metadata.clone(),
    };
    let result = JobResult::Published {
        artifact_id: id,
        uri,
        size: info.size,
        sha256: info.sha256,
        warnings: Vec::new(),
    };
    Completion {
        outcome: Outcome::success(result),
        chunks: Vec::new(),
        event: None,
        artifact: Some(artifact),
    }
}
