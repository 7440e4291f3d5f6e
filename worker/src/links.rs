//! Connections to runners, kept open, so that a command costs a round trip.
//!
//! One connection per environment and lane. Each is dialled once: it never reconnects by itself, since what answers then
//! might be another start of PID 1. The first call on each is `Hello`; a link is handed out only for the incarnation that
//! answered it.
//!
//! ```text
//!   control   commands, their output, small files    windows so wide that a stream that stands still delays none
//!   bulk      large files, opened when one comes     at most 16 at a time, so that their windows fit
//! ```
//!
//! Both ends ask each other for a sign of life and give up without one, so a link that hangs ends by itself. One that
//! nobody has used for some minutes is closed.

mod shelf;
mod slots;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};
use hyper_util::rt::TokioIo;
use runner::proto::HelloRequest;
use runner::proto::runner_client::RunnerClient;
use shared::clock::Clock;
use shared::ids::{EnvironmentUid, Incarnation};
use shared::ports::{Lane, RunnerIo, Runtime, RuntimeError};
use shelf::{Shelf, Ticket};
use slots::{Slot, Slots};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::context::Context;

/// The largest message that a runner may send, in bytes: twice the largest that an honest one sends, a page of a folder.
const MAX_MESSAGE_BYTES: usize = 2 << 20;

/// How long a runner may take to greet.
const HELLO_TIME: Duration = Duration::from_secs(5);

/// Without a use for so long a link is closed.
const IDLE_TIME: Duration = Duration::from_mins(5);

/// Large transfers of one environment at a time.
const BULK_STREAMS: usize = 16;

/// Bytes on the way on one stream to here: what hides the round trip to a pod whose stream is full, some tens of
/// milliseconds. The runner's own window is narrower, since what waits there is the environment's memory.
const STREAM_WINDOW: u32 = 4 << 20;

/// Bytes on the way on all streams of a connection: never the limit. Each stream has its own, and how many there are is
/// limited elsewhere.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// When a runner that says nothing is asked for a sign of life, and how long that may take.
const SILENCE: Duration = Duration::from_secs(5);
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// A client of the runner's service.
pub(crate) type Client = RunnerClient<Channel>;

/// Why there is no link.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum LinkError {
    /// The runtime has nothing to connect to.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Another start of PID 1 answers, over this link.
    #[error("another start of the environment's PID 1 answers")]
    OtherIncarnation(Box<Link>),
    /// It did not answer, or not as a runner does.
    #[error("the runner does not answer: {0}")]
    Broken(String),
}

/// One connection.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    /// For calls.
    pub(crate) client: Client,
    /// The start of PID 1 that answers.
    pub(crate) incarnation: Incarnation,
    ticket: Ticket,
}

type Key = (EnvironmentUid, Lane);

/// One dial, whose outcome all have who wait for it. When none does any more it is dropped.
type Dial = Shared<Dialling>;
type WeakDial = WeakShared<Dialling>;
type Dialling = BoxFuture<'static, Result<(Client, Incarnation), LinkError>>;

/// All connections of this worker.
pub(crate) struct Links {
    runtime: Arc<dyn Runtime>,
    clock: Arc<dyn Clock>,
    open: Mutex<Table>,
    slots: Slots,
}

#[derive(Default)]
struct Table {
    links: Shelf<Key, (Client, Incarnation)>,
    /// At most one dial per key at a time.
    dialling: HashMap<Key, WeakDial>,
}

impl Links {
    pub(crate) fn new(runtime: Arc<dyn Runtime>, clock: Arc<dyn Clock>) -> Self {
        Self {
            runtime,
            clock,
            open: Mutex::default(),
            slots: Slots::new(BULK_STREAMS),
        }
    }

    /// Waits until one more large transfer of an environment may be under way.
    pub(crate) async fn slot(&self, uid: &EnvironmentUid) -> Slot {
        self.slots.take(uid).await
    }

    /// Closes the links that nobody has used for some minutes.
    pub(crate) fn close_idle(&self) {
        let now = self.clock.monotonic();
        self.table().links.drop_idle(now, IDLE_TIME);
    }

    /// A link to that incarnation.
    pub(crate) async fn to(
        &self,
        uid: &EnvironmentUid,
        incarnation: &Incarnation,
        lane: Lane,
    ) -> Result<Link, LinkError> {
        let link = self.any(uid, lane).await?;
        if link.incarnation == *incarnation {
            return Ok(link);
        }
        // The kept one may be of a start that is gone: only a new connection proves who is there now.
        self.forget(uid, lane, &link);
        let link = self.any(uid, lane).await?;
        if link.incarnation == *incarnation {
            Ok(link)
        } else {
            Err(LinkError::OtherIncarnation(Box::new(link)))
        }
    }

    /// A link to whatever incarnation is there. Whoever asks while it is dialled gets what comes of that, also an error:
    /// each would have met the same, one after the other.
    pub(crate) async fn any(&self, uid: &EnvironmentUid, lane: Lane) -> Result<Link, LinkError> {
        let key = (uid.clone(), lane);
        let dial = match self.kept_or_dial(&key) {
            Ok(link) => return Ok(link),
            Err(dial) => dial,
        };
        let dialled = dial.clone().await;
        let mut table = self.table();
        let begun = table.dialling.get(&key).and_then(WeakShared::upgrade);
        // Whoever wakes first keeps the link; it may be replaced by the time that the last one does.
        let first = begun.is_some_and(|begun| begun.ptr_eq(&dial));
        if first {
            table.dialling.remove(&key);
        }
        let (client, incarnation) = dialled?;
        let now = self.clock.monotonic();
        let ticket = if first {
            let kept = (client.clone(), incarnation.clone());
            table.links.put(key, kept, now)
        } else {
            // Another link may have its place by now, and must not go when this one breaks.
            table.links.loose()
        };
        Ok(Link {
            client,
            incarnation,
            ticket,
        })
    }

    fn kept_or_dial(&self, key: &Key) -> Result<Link, Dial> {
        // Under one lock: else a dial could end between the two looks, and another would begin.
        let mut table = self.table();
        if let Some(((client, incarnation), ticket)) = table.links.get(key, self.clock.monotonic())
        {
            return Ok(Link {
                client,
                incarnation,
                ticket,
            });
        }
        if let Some(dial) = table.dialling.get(key).and_then(WeakShared::upgrade) {
            return Err(dial);
        }
        let (runtime, (uid, lane)) = (Arc::clone(&self.runtime), key.clone());
        let dial = async move { dial(&*runtime, &uid, lane).await }
            .boxed()
            .shared();
        table.dialling.retain(|_, dial| dial.upgrade().is_some());
        table
            .dialling
            .extend(dial.downgrade().map(|weak| (key.clone(), weak)));
        Err(dial)
    }

    /// Drops a link that broke, unless it was replaced already.
    pub(crate) fn forget(&self, uid: &EnvironmentUid, lane: Lane, broken: &Link) {
        let key = (uid.clone(), lane);
        self.table().links.forget(&key, &broken.ticket);
    }

    /// Drops all links of an environment that stops.
    pub(crate) fn forget_all(&self, uid: &EnvironmentUid) {
        self.table().links.retain(|(of, _)| of != uid);
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn dial(
    runtime: &dyn Runtime,
    uid: &EnvironmentUid,
    lane: Lane,
) -> Result<(Client, Incarnation), LinkError> {
    let io = runtime.dial(uid, lane).await?;
    let channel = tokio::time::timeout(HELLO_TIME, channel_over(io))
        .await
        .map_err(|_| LinkError::Broken("it does not speak HTTP/2".to_owned()))?
        .map_err(|error| LinkError::Broken(told(&error)))?;
    let mut client = RunnerClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let mut request = tonic::Request::new(HelloRequest {});
    request.set_timeout(HELLO_TIME);
    let hello = client
        .hello(request)
        .await
        .map_err(|status| LinkError::Broken(told(&status)))?;
    let incarnation = Incarnation::new(hello.into_inner().incarnation)
        .map_err(|invalid| LinkError::Broken(format!("it names itself wrongly: {invalid}")))?;
    Ok((client, incarnation))
}

/// Closes idle links until `end`.
pub(crate) async fn keep(context: Arc<Context>, end: CancellationToken) {
    let mut ticks = tokio::time::interval(IDLE_TIME / 10);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            _ = ticks.tick() => context.links.close_idle(),
        }
    }
}

/// An HTTP/2 channel over one connection; when that ends, so does the channel.
async fn channel_over(io: Box<dyn RunnerIo>) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_static("http://runner.invalid")
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(runner::HTTP2_FRAME_BYTES)
        .http2_keep_alive_interval(SILENCE)
        .keep_alive_timeout(SIGN_OF_LIFE)
        .keep_alive_while_idle(true);
    let mut once = Some(io);
    let connector = tower::service_fn(move |_: Uri| {
        let io = once.take();
        async move {
            io.map(TokioIo::new)
                .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected))
        }
    });
    endpoint.connect_with_connector(connector).await
}

/// An error with what is behind it: the outermost says no more than that there is one.
fn told(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let more = error.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        next = error.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use futures::future::join_all;
    use shared::clock::SystemClock;
    use shared::environment::Egress;
    use shared::ports::{Holding, Placement, RuntimeOffer, Sight, Started};
    use tokio::sync::Semaphore;

    use super::*;

    /// A runtime on which nothing runs, which takes its time to say so.
    struct Empty {
        dials: AtomicUsize,
        answers: Semaphore,
    }

    #[async_trait]
    impl Runtime for Empty {
        async fn dial(
            &self,
            _uid: &EnvironmentUid,
            _lane: Lane,
        ) -> Result<Box<dyn RunnerIo>, RuntimeError> {
            self.dials.fetch_add(1, Ordering::SeqCst);
            self.answers.acquire().await.expect("open").forget();
            Err(RuntimeError::NotRunning)
        }

        fn offer(&self) -> RuntimeOffer {
            RuntimeOffer {
                egress: Vec::new(),
                default_egress: Egress::None,
                users: false,
            }
        }

        async fn create(&self, _: &Placement) -> Result<Started, RuntimeError> {
            Err(RuntimeError::NotRunning)
        }

        async fn start(&self, _: &Placement) -> Result<Started, RuntimeError> {
            Err(RuntimeError::NotRunning)
        }

        async fn stop(&self, _: &EnvironmentUid, _: Duration) -> Result<(), RuntimeError> {
            Err(RuntimeError::NotRunning)
        }

        async fn delete(&self, _: &EnvironmentUid) -> Result<(), RuntimeError> {
            Err(RuntimeError::NotRunning)
        }

        async fn kill(&self, _: &EnvironmentUid, _: Option<&str>) -> Result<(), RuntimeError> {
            Err(RuntimeError::NotRunning)
        }

        async fn inspect(&self, _: &EnvironmentUid) -> Result<Sight, RuntimeError> {
            Err(RuntimeError::NotRunning)
        }

        async fn list(&self) -> Result<Vec<Holding>, RuntimeError> {
            Err(RuntimeError::NotRunning)
        }

        async fn check(&self) -> Result<(), RuntimeError> {
            Err(RuntimeError::NotRunning)
        }
    }

    #[tokio::test]
    async fn all_who_wait_have_the_outcome_of_one_dial() {
        let runtime = Arc::new(Empty {
            dials: AtomicUsize::new(0),
            answers: Semaphore::new(0),
        });
        let links = Links::new(Arc::clone(&runtime) as _, Arc::new(SystemClock));
        let uid = EnvironmentUid::new("abcdefgh22").unwrap();
        for round in 1..=2 {
            let mut asked = Box::pin(join_all((0..50).map(|_| links.any(&uid, Lane::Control))));
            assert!(asked.as_mut().now_or_never().is_none());
            runtime.answers.add_permits(1);
            for answer in asked.await {
                assert!(matches!(
                    answer,
                    Err(LinkError::Runtime(RuntimeError::NotRunning))
                ));
            }
            assert_eq!(runtime.dials.load(Ordering::SeqCst), round);
        }
        // One that nobody waits for any more is another's no longer.
        assert!(links.any(&uid, Lane::Control).now_or_never().is_none());
        assert!(links.any(&uid, Lane::Control).now_or_never().is_none());
        assert_eq!(runtime.dials.load(Ordering::SeqCst), 4);
        assert_eq!(links.table().dialling.len(), 1);
    }
}
