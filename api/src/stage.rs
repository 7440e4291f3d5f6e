//! Content on its way to a worker: in the job itself while it is small, else in the staging area of the blobs, written
//! before the job is committed.

use axum::body::{Body, Bytes};
use bytes::BytesMut;
use futures::{Stream, StreamExt as _, stream};
use shared::admission::{JobRequest, admit};
use shared::ids::{EnvironmentId, JobId};
use shared::job::{ByteContent, Job, JobInput};
use shared::octets::Octets;
use shared::ports::BlobError;
use shared::staging::{self, INLINE_BYTES};

use crate::extract::Call;
use crate::problem::Problem;
use crate::service::Service;

/// For which job content is staged.
pub(crate) struct Destination<'a> {
    pub(crate) call: &'a Call,
    pub(crate) environment: &'a EnvironmentId,
    pub(crate) job: JobId,
}

impl Service {
    /// Takes a body of any size. It is read only as fast as the blob store writes.
    async fn stage(&self, to: &Destination<'_>, body: Body) -> Result<ByteContent, Problem> {
        let mut rest = body.into_data_stream();
        let mut first = BytesMut::new();
        while first.len() <= INLINE_BYTES {
            match rest.next().await {
                None => return Ok(ByteContent::Inline(Octets(first.freeze()))),
                Some(Ok(chunk)) => first.extend_from_slice(&chunk),
                Some(Err(_)) => return Err(Problem::malformed("the body did not come whole")),
            }
        }
        let rest = rest.map(|chunk| chunk.map_err(|error| BlobError::Source(error.to_string())));
        let whole = stream::once(std::future::ready(Ok(first.freeze()))).chain(rest);
        self.put_staged(to, whole).await
    }

    /// Takes a body of any size for a job, and runs that.
    pub(crate) async fn run_with_body(
        &self,
        call: &Call,
        environment: EnvironmentId,
        body: Body,
        input: impl FnOnce(ByteContent) -> JobInput,
    ) -> Result<Job, Problem> {
        let job = self.new_job();
        let to = Destination {
            call,
            environment: &environment,
            job,
        };
        let content = self.stage(&to, body).await?;
        let order = self.order_as(job, environment, input(content));
        self.run(call, order, self.file_wait(call)).await
    }

    /// Takes bytes that are there already.
    pub(crate) async fn stage_bytes(
        &self,
        to: &Destination<'_>,
        bytes: Bytes,
    ) -> Result<ByteContent, Problem> {
        if bytes.len() <= INLINE_BYTES {
            return Ok(ByteContent::Inline(Octets(bytes)));
        }
        self.put_staged(to, stream::once(std::future::ready(Ok(bytes))))
            .await
    }

    async fn put_staged(
        &self,
        to: &Destination<'_>,
        content: impl Stream<Item = Result<Bytes, BlobError>> + Send + 'static,
    ) -> Result<ByteContent, Problem> {
        self.would_take_work(to).await?;
        let name = staging::part(&to.call.job(to.job), 0)?;
        let info = self.deps.blobs.put(&name, content.boxed()).await?;
        Ok(ByteContent::Staged {
            size: info.size,
            parts: 1,
        })
    }

    /// Asks the environment as it is now, so that no large body is taken for one that will refuse it.
    async fn would_take_work(&self, to: &Destination<'_>) -> Result<(), Problem> {
        let at = to.call.environment(to.environment.clone());
        let environment = self.deps.store.environment(&at).await?;
        let request = JobRequest {
            id: to.job,
            at,
            input: JobInput::List {
                path: Octets::default(),
                depth: 1,
                after: Octets::default(),
                limit: 1,
            },
            labels: std::collections::BTreeMap::new(),
            spec: None,
        };
        admit(environment.as_ref(), request, self.deps.clock.now())?;
        Ok(())
    }
}
