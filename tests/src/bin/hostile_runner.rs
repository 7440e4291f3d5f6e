//! A PID 1 that lies: what stands in the place of the runner once an environment has been taken over.
//!
//! It is started as the runner is. How it lies stands at the end of its own file, after [`MARK`]:
//!
//! | word | what it does |
//! |---|---|
//! | `silent` | never takes a connection |
//! | `garbage` | writes bytes that mean nothing, for ever |
//! | `nameless` | greets with a name of megabytes |
//! | `mute` | greets, and never answers anything else |
//! | `endless` | sends output for ever |
//! | `loud` | sends frames of megabytes |
//! | `backwards` | sends the same output again |
//! | `stranger` | ends commands with the record of another job |
//! | `numbers` | ends commands with numbers that cannot be |
//! | `wordy` | says why a command did not start in a megabyte |
//! | `huge` | announces a file of more than a disk holds, and sends content for ever |
//! | `crowd` | lists more entries than there can be; reads more bytes than it announced |

use std::error::Error;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::pin::Pin;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use runner::proto::attach_event::Event;
use runner::proto::job_record::Exit;
use runner::proto::runner_server::{Runner, RunnerServer};
use runner::proto::{self, seal_reply};
use tokio::io::AsyncWriteExt as _;
use tonic::{Request, Response, Status, Streaming};

/// What stands before the word.
const MARK: &[u8] = b"\nHOSTILE:";
/// The number of the listening socket.
const LISTEN_FD: i32 = 3;
/// More than any message may have.
const MEGABYTES: usize = 3 << 20;

type Answer<T> = Result<Response<T>, Status>;
type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let itself = std::fs::read("/proc/self/exe")?;
    let at = itself.windows(MARK.len()).rposition(|part| part == MARK);
    let word = itself
        .get(at.ok_or("no word")? + MARK.len()..)
        .unwrap_or_default();
    let word = String::from_utf8(word.to_vec())?;
    let listener = listener()?;
    match word.as_str() {
        "silent" => std::future::pending().await,
        "garbage" => babble(listener).await,
        _ => {
            let incoming = stream::unfold(listener, |listener| async {
                let taken = listener.accept().await.map(|(stream, _)| stream);
                Some((taken, listener))
            });
            tonic::transport::Server::builder()
                .add_service(RunnerServer::new(Liar { word }))
                .serve_with_incoming(incoming)
                .await?;
            Ok(())
        }
    }
}

#[allow(
    unsafe_code,
    reason = "the socket comes as a number, as the runner's does"
)]
fn listener() -> std::io::Result<tokio::net::UnixListener> {
    // SAFETY: the starter has opened it for this program, and nothing here has taken it before.
    let socket = unsafe { OwnedFd::from_raw_fd(LISTEN_FD) };
    let listener = std::os::unix::net::UnixListener::from(socket);
    listener.set_nonblocking(true)?;
    tokio::net::UnixListener::from_std(listener)
}

async fn babble(listener: tokio::net::UnixListener) -> Result<(), Box<dyn Error>> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let nothing: Vec<u8> = (0..1 << 16)
                .map(|number: u32| (number * 7919) as u8)
                .collect();
            while stream.write_all(&nothing).await.is_ok() {}
        });
    }
}

struct Liar {
    word: String,
}

impl Liar {
    fn is(&self, word: &str) -> bool {
        self.word == word
    }

    fn record(&self, job_id: &str) -> proto::JobRecord {
        let mut record = proto::JobRecord {
            job_id: job_id.to_owned(),
            fence: 1,
            incarnation: incarnation(),
            phase: proto::JobPhase::Ended.into(),
            cause: proto::Cause::Exited.into(),
            exit: Some(Exit::Code(0)),
            ..Default::default()
        };
        match self.word.as_str() {
            "stranger" => record.job_id = "01900000-0000-7000-8000-000000000000".to_owned(),
            "numbers" => {
                record.exit = Some(Exit::Code(u32::MAX));
                record.duration_ms = u64::MAX;
                record.started_at_ms = i64::MIN;
                record.stdout = Some(proto::StreamCounts {
                    total: u64::MAX,
                    head: u64::MAX,
                    tail_start: 1,
                });
            }
            "wordy" => {
                record.cause = proto::Cause::StartFailed.into();
                record.exit = None;
                record.start_error = Some(proto::StartError {
                    kind: proto::start_error::Kind::Other.into(),
                    message: "why ".repeat(MEGABYTES / 12),
                });
            }
            _ => {}
        }
        record
    }

    fn output(offset: u64, size: usize) -> Result<proto::AttachEvent, Status> {
        let output = proto::Output {
            stream: proto::Stream::Stdout.into(),
            offset,
            data: Bytes::from(vec![b'x'; size]),
        };
        Ok(proto::AttachEvent {
            event: Some(Event::Output(output)),
        })
    }
}

fn incarnation() -> String {
    "0123456789abcdef".repeat(2)
}

fn never<T>() -> impl Future<Output = Answer<T>> {
    std::future::pending()
}

#[tonic::async_trait]
impl Runner for Liar {
    type AttachStream = Events<proto::AttachEvent>;
    type ReadFileStream = Events<proto::ReadFileEvent>;
    type PackStream = Events<proto::PackEvent>;

    async fn hello(&self, _: Request<proto::HelloRequest>) -> Answer<proto::HelloReply> {
        let name = if self.is("nameless") {
            "f".repeat(MEGABYTES)
        } else {
            incarnation()
        };
        Ok(Response::new(proto::HelloReply {
            incarnation: name,
            version: String::new(),
        }))
    }

    async fn start(&self, request: Request<proto::StartRequest>) -> Answer<proto::JobRecord> {
        if self.is("mute") {
            return never().await;
        }
        let permit = request.into_inner().permit.unwrap_or_default();
        Ok(Response::new(self.record(&permit.job_id)))
    }

    async fn seal(&self, request: Request<proto::SealRequest>) -> Answer<proto::SealReply> {
        let job = request.into_inner().job_id;
        Ok(Response::new(proto::SealReply {
            incarnation: incarnation(),
            fate: Some(seal_reply::Fate::Record(self.record(&job))),
        }))
    }

    async fn attach(&self, request: Request<proto::AttachRequest>) -> Answer<Self::AttachStream> {
        let job = request.into_inner().job_id;
        let size = runner::MAX_FRAME_BYTES;
        let events: Self::AttachStream = match self.word.as_str() {
            "mute" => stream::pending().boxed(),
            "endless" => stream::iter(0..)
                .map(move |number: u64| Self::output(number * size as u64, size))
                .boxed(),
            "loud" => stream::iter([Self::output(0, MEGABYTES)]).boxed(),
            "backwards" => stream::repeat_with(move || Self::output(0, size)).boxed(),
            _ => {
                let end = Some(Event::End(self.record(&job)));
                stream::iter([Ok(proto::AttachEvent { event: end })]).boxed()
            }
        };
        Ok(Response::new(events))
    }

    async fn write_stdin(
        &self,
        _: Request<proto::WriteStdinRequest>,
    ) -> Answer<proto::WriteStdinReply> {
        never().await
    }

    async fn signal(&self, _: Request<proto::SignalRequest>) -> Answer<proto::JobRecord> {
        never().await
    }

    async fn list_jobs(&self, _: Request<proto::ListJobsRequest>) -> Answer<proto::ListJobsReply> {
        never().await
    }

    async fn release(&self, _: Request<proto::ReleaseRequest>) -> Answer<proto::ReleaseReply> {
        never().await
    }

    async fn list_files(
        &self,
        _: Request<proto::ListFilesRequest>,
    ) -> Answer<proto::ListFilesReply> {
        if self.is("mute") {
            return never().await;
        }
        // Two bytes each on the wire, and many times as much in memory.
        Ok(Response::new(proto::ListFilesReply {
            path: Bytes::from_static(b"/app"),
            entries: vec![Bytes::new(); MEGABYTES / 6],
            more: true,
        }))
    }

    async fn read_file(&self, _: Request<proto::ReadFileRequest>) -> Answer<Self::ReadFileStream> {
        use proto::read_file_event::Event;
        if self.is("mute") {
            return Ok(Response::new(stream::pending().boxed()));
        }
        let event = |event| Ok(proto::ReadFileEvent { event: Some(event) });
        let size = if self.is("huge") { u64::MAX / 2 } else { 10 };
        let head = Event::Head(proto::FileHead {
            path: Bytes::from_static(b"/app/file"),
            size,
            length: size,
            modified_ns: i64::MIN,
            ..Default::default()
        });
        let data = move || event(Event::Data(Bytes::from(vec![b'x'; 1 << 16])));
        let events = stream::iter([event(head)]).chain(stream::repeat_with(data));
        Ok(Response::new(events.boxed()))
    }

    async fn write_file(
        &self,
        _: Request<Streaming<proto::WriteFileRequest>>,
    ) -> Answer<proto::WriteFileReply> {
        never().await
    }

    async fn remove_file(
        &self,
        _: Request<proto::RemoveFileRequest>,
    ) -> Answer<proto::RemoveFileReply> {
        never().await
    }

    async fn move_file(&self, _: Request<proto::MoveFileRequest>) -> Answer<proto::MoveFileReply> {
        never().await
    }

    async fn make_folder(
        &self,
        _: Request<proto::MakeFolderRequest>,
    ) -> Answer<proto::MakeFolderReply> {
        never().await
    }

    async fn pack(&self, _: Request<proto::PackRequest>) -> Answer<Self::PackStream> {
        use proto::pack_event::Event;
        if !self.is("huge") {
            return Ok(Response::new(stream::pending().boxed()));
        }
        let event = |event| Ok(proto::PackEvent { event: Some(event) });
        let head = Event::Head(proto::PackHead {
            path: Bytes::from_static(b"/app"),
        });
        let data = move || {
            event(Event::Data(Bytes::from(vec![
                b'x';
                runner::MAX_FRAME_BYTES
            ])))
        };
        let events = stream::iter([event(head)]).chain(stream::repeat_with(data));
        Ok(Response::new(events.boxed()))
    }

    async fn unpack(
        &self,
        _: Request<Streaming<proto::UnpackRequest>>,
    ) -> Answer<proto::UnpackReply> {
        never().await
    }
}
