//! The gRPC face: checks what comes in, calls one thing, and puts its answer into the wire's words.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, future};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, Streaming};

use crate::files::Files;
use crate::ids::{Fence, IdError, JobId, Permit};
use crate::jobs::{self, Jobs, LogError, Refusal, Sealed, StdinError};
use crate::peer;
use crate::proto::runner_server::{Runner, RunnerServer};
use crate::proto::{self, seal_reply::Fate};
use crate::{HTTP2_FRAME_BYTES, MAX_FRAME_BYTES, MAX_MESSAGE_BYTES};

const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// Above the sum of the streams that a worker writes files on at a time.
const CONNECTION_WINDOW_BYTES: u32 = 32 * 1024 * 1024;
const KEEPALIVE: Duration = Duration::from_secs(10);
const MAX_SIGNAL: u32 = 64;
const MAX_DEPTH: u32 = 16;
const MAX_ENTRIES: u32 = 10_000;

/// Serves until `stop` completes, then until the open calls end.
pub(crate) async fn serve(
    listener: UnixListener,
    jobs: Arc<Jobs>,
    files: Files,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let runner = RunnerServer::new(Service { jobs, files })
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let connections = UnixListenerStream::new(listener).filter(|connection| {
        future::ready(connection.as_ref().map_or(true, peer::is_from_outside))
    });
    tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(HTTP2_FRAME_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_service(runner)
        .serve_with_incoming_shutdown(connections, stop)
        .await
}

struct Service {
    jobs: Arc<Jobs>,
    files: Files,
}

type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Runner for Service {
    type AttachStream = Events<proto::AttachEvent>;
    type ReadFileStream = Events<proto::ReadFileEvent>;
    type PackStream = Events<proto::PackEvent>;

    async fn hello(
        &self,
        _: Request<proto::HelloRequest>,
    ) -> Result<Response<proto::HelloReply>, Status> {
        Ok(Response::new(proto::HelloReply {
            incarnation: self.jobs.incarnation().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }

    async fn start(
        &self,
        request: Request<proto::StartRequest>,
    ) -> Result<Response<proto::JobRecord>, Status> {
        let mut request = request.into_inner();
        let permit = Permit::try_from(request.permit.take())?;
        Ok(Response::new(self.jobs.start(permit, request).await?))
    }

    async fn seal(
        &self,
        request: Request<proto::SealRequest>,
    ) -> Result<Response<proto::SealReply>, Status> {
        let request = request.into_inner();
        let id = JobId::new(&request.job_id)?;
        let fence = Fence::new(request.fence)?;
        let sealed = self.jobs.seal(&id, fence, &request.incarnation)?;
        // The floor is up; whatever of this id is being done to files is done before the answer.
        self.files.settle(&id).await;
        let fate = match sealed {
            Sealed::NeverStarted { proven } => Fate::NeverStarted(proto::NeverStarted { proven }),
            Sealed::Record(record) => Fate::Record(*record),
            Sealed::Tombstone => Fate::Tombstone(proto::Tombstone {}),
        };
        Ok(Response::new(proto::SealReply {
            incarnation: self.jobs.incarnation().to_owned(),
            fate: Some(fate),
        }))
    }

    async fn attach(
        &self,
        request: Request<proto::AttachRequest>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let request = request.into_inner();
        let job = self.jobs.get(&JobId::new(&request.job_id)?)?;
        let events = jobs::attach(job, [request.stdout_offset, request.stderr_offset])?;
        Ok(Response::new(Box::pin(
            events.map(|event| event.map_err(Status::from)),
        )))
    }

    async fn write_stdin(
        &self,
        request: Request<proto::WriteStdinRequest>,
    ) -> Result<Response<proto::WriteStdinReply>, Status> {
        let proto::WriteStdinRequest {
            job_id,
            offset,
            data,
            eof,
        } = request.into_inner();
        check_frame(&data)?;
        let next_offset = self
            .jobs
            .write_stdin(&JobId::new(&job_id)?, offset, &data, eof)
            .await??;
        Ok(Response::new(proto::WriteStdinReply { next_offset }))
    }

    async fn signal(
        &self,
        request: Request<proto::SignalRequest>,
    ) -> Result<Response<proto::JobRecord>, Status> {
        let request = request.into_inner();
        let signal = match request.signal {
            0 => libc::SIGTERM,
            signal if signal <= MAX_SIGNAL => signal.cast_signed(),
            _ => return Err(Status::invalid_argument("signal must be at most 64")),
        };
        let kill_after = request
            .kill
            .then(|| Duration::from_millis(request.grace_ms));
        let (id, fence) = (JobId::new(&request.job_id)?, Fence::new(request.fence)?);
        Ok(Response::new(
            self.jobs.signal(&id, fence, signal, kill_after).await?,
        ))
    }

    async fn list_jobs(
        &self,
        _: Request<proto::ListJobsRequest>,
    ) -> Result<Response<proto::ListJobsReply>, Status> {
        Ok(Response::new(proto::ListJobsReply {
            jobs: self.jobs.list(),
        }))
    }

    async fn release(
        &self,
        request: Request<proto::ReleaseRequest>,
    ) -> Result<Response<proto::ReleaseReply>, Status> {
        let proto::ReleaseRequest {
            job_id,
            stdout_offset,
            stderr_offset,
            forget,
        } = request.into_inner();
        let id = JobId::new(&job_id)?;
        if forget && (self.files.forget(&id) || self.jobs.has_begun(&id)) {
            self.jobs.bury(&id);
        }
        let released = self
            .jobs
            .release(id, stdout_offset, stderr_offset, forget)
            .await?;
        released
            .map_err(|error| Status::internal(format!("output cannot be released: {error}")))?;
        Ok(Response::new(proto::ReleaseReply {}))
    }

    async fn list_files(
        &self,
        request: Request<proto::ListFilesRequest>,
    ) -> Result<Response<proto::ListFilesReply>, Status> {
        let request = request.into_inner();
        if !(1..=MAX_DEPTH).contains(&request.depth) {
            return Err(Status::invalid_argument(format!(
                "depth must be 1 to {MAX_DEPTH}"
            )));
        }
        if !(1..=MAX_ENTRIES).contains(&request.limit) {
            return Err(Status::invalid_argument(format!(
                "limit must be 1 to {MAX_ENTRIES}"
            )));
        }
        Ok(Response::new(self.files.list(request).await?))
    }

    async fn read_file(
        &self,
        request: Request<proto::ReadFileRequest>,
    ) -> Result<Response<Self::ReadFileStream>, Status> {
        let events = self.files.read(request.into_inner()).await?;
        Ok(Response::new(Box::pin(
            events.map(|event| event.map_err(Status::from)),
        )))
    }

    async fn write_file(
        &self,
        request: Request<Streaming<proto::WriteFileRequest>>,
    ) -> Result<Response<proto::WriteFileReply>, Status> {
        Ok(Response::new(self.files.write(request.into_inner()).await?))
    }

    async fn remove_file(
        &self,
        request: Request<proto::RemoveFileRequest>,
    ) -> Result<Response<proto::RemoveFileReply>, Status> {
        Ok(Response::new(
            self.files.remove(request.into_inner()).await?,
        ))
    }

    async fn move_file(
        &self,
        request: Request<proto::MoveFileRequest>,
    ) -> Result<Response<proto::MoveFileReply>, Status> {
        Ok(Response::new(
            self.files.move_file(request.into_inner()).await?,
        ))
    }

    async fn make_folder(
        &self,
        request: Request<proto::MakeFolderRequest>,
    ) -> Result<Response<proto::MakeFolderReply>, Status> {
        Ok(Response::new(
            self.files.make_folder(request.into_inner()).await?,
        ))
    }

    async fn pack(
        &self,
        request: Request<proto::PackRequest>,
    ) -> Result<Response<Self::PackStream>, Status> {
        let events = self.files.pack(request.into_inner()).await?;
        Ok(Response::new(Box::pin(
            events.map(|event| event.map_err(Status::from)),
        )))
    }

    async fn unpack(
        &self,
        request: Request<Streaming<proto::UnpackRequest>>,
    ) -> Result<Response<proto::UnpackReply>, Status> {
        Ok(Response::new(
            self.files.unpack(request.into_inner()).await?,
        ))
    }
}

fn check_frame(data: &[u8]) -> Result<(), Status> {
    if data.len() > MAX_FRAME_BYTES {
        return Err(Status::invalid_argument(format!(
            "data: more than {MAX_FRAME_BYTES} bytes"
        )));
    }
    Ok(())
}

impl From<IdError> for Status {
    fn from(error: IdError) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            Refusal::OtherIncarnation(_) | Refusal::StillRunning => {
                Self::failed_precondition(message)
            }
            Refusal::BelowFloor(_) => Self::aborted(message),
            Refusal::AlreadyStarted => Self::already_exists(message),
            Refusal::NotFound => Self::not_found(message),
            Refusal::Invalid(_) => Self::invalid_argument(message),
            Refusal::Exhausted(_) => Self::resource_exhausted(message),
            Refusal::ShuttingDown => Self::unavailable(message),
        }
    }
}

impl From<LogError> for Status {
    fn from(error: LogError) -> Self {
        let message = error.to_string();
        match error {
            LogError::Released(_) | LogError::Beyond(_) => Self::out_of_range(message),
            LogError::Io(_) => Self::internal(message),
        }
    }
}

impl From<StdinError> for Status {
    fn from(error: StdinError) -> Self {
        let message = error.to_string();
        match error {
            StdinError::Gap(_) => Self::out_of_range(message),
            StdinError::Closed => Self::failed_precondition(message),
        }
    }
}
