//! Noticing that a job shall end.

use shared::job::CancelRequest;

use crate::execute::Task;

impl Task {
    /// Returns when somebody asks for the job's end. A lease that was lost shows at the next write, not here.
    pub(crate) async fn cancelled(&self) -> CancelRequest {
        if let Some(request) = &self.job.cancel {
            return request.clone();
        }
        let mut watch = self.context.store.watch(&self.at);
        loop {
            if let Some(request) = self.requested_cancel().await {
                return request;
            }
            watch.changed().await;
        }
    }

    /// The request to end the job, as the store has it now.
    pub(crate) async fn requested_cancel(&self) -> Option<CancelRequest> {
        if let Some(request) = &self.job.cancel {
            return Some(request.clone());
        }
        match self.context.store.job(&self.at).await {
            Ok(job) => job.and_then(|job| job.cancel),
            Err(error) => {
                tracing::debug!(job = %self.at.job, %error, "could not look for a cancel");
                None
            }
        }
    }
}
