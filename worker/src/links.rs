//! Connections to runners, kept open, so that a command costs a round trip.
//!
//! One connection per environment and lane. Each is dialled once: it never reconnects by itself, since what answers then
//! might be another start of PID 1. The first call on each is `Hello`; a link is handed out only for the incarnation that
//! answered it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use runner::proto::HelloRequest;
use runner::proto::runner_client::RunnerClient;
use shared::ids::{EnvironmentUid, Incarnation};
use shared::ports::{Lane, RunnerIo, Runtime, RuntimeError};
use tonic::transport::{Channel, Endpoint, Uri};

/// The largest message that a runner may send, in bytes: a page of the longest names.
const MAX_MESSAGE_BYTES: usize = 48 << 20;

/// How long a runner may take to greet.
const HELLO_TIME: Duration = Duration::from_secs(5);

/// A client of the runner's service.
pub(crate) type Client = RunnerClient<Channel>;

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// The runtime has nothing to connect to.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Another start of PID 1 answers.
    #[error("another start of the environment's PID 1 answers")]
    OtherIncarnation(Incarnation),
    /// It did not answer, or not as a runner does.
    #[error("the runner does not answer: {0}")]
    Broken(String),
}

/// One connection.
#[derive(Clone)]
pub(crate) struct Link {
    /// For calls.
    pub(crate) client: Client,
    /// The start of PID 1 that answers.
    pub(crate) incarnation: Incarnation,
    number: u64,
}

type Key = (EnvironmentUid, Lane);

/// All connections of this worker.
pub(crate) struct Links {
    runtime: Arc<dyn Runtime>,
    open: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    links: HashMap<Key, Link>,
    /// One dialler per key at a time: the others wait for its link.
    dialling: HashMap<Key, Arc<tokio::sync::Mutex<()>>>,
    numbers: u64,
}

impl Links {
    pub(crate) fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self {
            runtime,
            open: Mutex::default(),
        }
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
            Err(LinkError::OtherIncarnation(link.incarnation))
        }
    }

    /// A link to whatever incarnation is there.
    pub(crate) async fn any(&self, uid: &EnvironmentUid, lane: Lane) -> Result<Link, LinkError> {
        let key = (uid.clone(), lane);
        if let Some(link) = self.kept(&key) {
            return Ok(link);
        }
        let dialling = Arc::clone(self.table().dialling.entry(key.clone()).or_default());
        let _alone = dialling.lock().await;
        if let Some(link) = self.kept(&key) {
            return Ok(link);
        }
        let dialled = self.dial(uid, lane).await;
        let mut table = self.table();
        table.dialling.remove(&key);
        let (client, incarnation) = dialled?;
        table.numbers += 1;
        let link = Link {
            client,
            incarnation,
            number: table.numbers,
        };
        table.links.insert(key, link.clone());
        Ok(link)
    }

    /// Drops a link that broke, unless it was replaced already.
    pub(crate) fn forget(&self, uid: &EnvironmentUid, lane: Lane, broken: &Link) {
        let mut table = self.table();
        let key = (uid.clone(), lane);
        if table
            .links
            .get(&key)
            .is_some_and(|kept| kept.number == broken.number)
        {
            table.links.remove(&key);
        }
    }

    /// Drops all links of an environment that stops.
    pub(crate) fn forget_all(&self, uid: &EnvironmentUid) {
        self.table().links.retain(|(of, _), _| of != uid);
    }

    fn kept(&self, key: &Key) -> Option<Link> {
        self.table().links.get(key).cloned()
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn dial(
        &self,
        uid: &EnvironmentUid,
        lane: Lane,
    ) -> Result<(Client, Incarnation), LinkError> {
        let io = self.runtime.dial(uid, lane).await?;
        let channel = tokio::time::timeout(HELLO_TIME, channel_over(io, lane))
            .await
            .map_err(|_| LinkError::Broken("it does not speak HTTP/2".to_owned()))?
            .map_err(|error| LinkError::Broken(error.to_string()))?;
        let mut client = RunnerClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let mut request = tonic::Request::new(HelloRequest {});
        request.set_timeout(HELLO_TIME);
        let hello = client
            .hello(request)
            .await
            .map_err(|status| LinkError::Broken(status.message().to_owned()))?;
        let incarnation = Incarnation::new(hello.into_inner().incarnation)
            .map_err(|invalid| LinkError::Broken(format!("it names itself wrongly: {invalid}")))?;
        Ok((client, incarnation))
    }
}

/// An HTTP/2 channel over one connection; when that ends, so does the channel.
async fn channel_over(
    io: Box<dyn RunnerIo>,
    lane: Lane,
) -> Result<Channel, tonic::transport::Error> {
    let (stream_window, connection_window) = match lane {
        Lane::Control => (1 << 20, 16 << 20),
        Lane::Bulk => (4 << 20, 64 << 20),
    };
    let endpoint = Endpoint::from_static("http://runner.invalid")
        .initial_stream_window_size(stream_window)
        .initial_connection_window_size(connection_window)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(20))
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
