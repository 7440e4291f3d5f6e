//! What the broker sends of one lane.
//!
//! The broker sends a few hints ahead of the asking, so that a round trip is not paid for each. Those that nobody has
//! asked for during a whole [`LINGER`] go back, for a worker without a free slot must keep none from one that has.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::link::Link;
use super::message;
use super::receipt::{InFlight, give_back};
use super::session::{ANSWER, Session, answered, unavailable};
use crate::ports::{Delivery, QueueError};

/// Hints that are delivered and not settled at most.
const AHEAD: u16 = 16;

/// How often who waits looks whether the connection is still there: a consumer that began just when it was lost never hears
/// of it from its library.
const LOOK: Duration = Duration::from_secs(1);

/// How long hints are held for the next who asks.
const LINGER: Duration = Duration::from_millis(200);

/// A lane of the queue, as this process receives it.
pub(super) struct Inbox {
    queue: String,
    open: Mutex<Option<Open>>,
    /// Receivers that wait now.
    asking: AtomicUsize,
    /// Receivers that ever waited.
    asked: AtomicU64,
}

struct Open {
    session: Arc<Session>,
    channel: Channel,
    /// None while nobody asks.
    consumer: Option<Consumer>,
    /// Ends with the consumer.
    watch: JoinSet<()>,
}

impl Open {
    async fn new(session: Arc<Session>) -> Result<Self, QueueError> {
        let channel = session.channel().await?;
        channel
            .basic_qos(AHEAD, BasicQosOptions::default())
            .await
            .map_err(unavailable)?;
        Ok(Self {
            session,
            channel,
            consumer: None,
            watch: JoinSet::new(),
        })
    }

    /// The next message; none where the broker sends no more.
    async fn message(&mut self) -> Option<lapin::Result<lapin::message::Delivery>> {
        let consumer = self.consumer.as_mut()?;
        loop {
            match timeout(LOOK, consumer.next()).await {
                Ok(message) => return message,
                Err(_) if self.session.is_open() && self.channel.status().connected() => {}
                Err(_) => return None,
            }
        }
    }
}

/// Somebody waits for a hint.
pub(super) struct Asking<'a>(&'a Inbox);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.asking.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Inbox {
    pub(super) fn new(queue: String) -> Self {
        Self {
            queue,
            open: Mutex::default(),
            asking: AtomicUsize::new(0),
            asked: AtomicU64::new(0),
        }
    }

    /// Tells that somebody waits, until what it gives is dropped.
    pub(super) fn ask(&self) -> Asking<'_> {
        self.asking.fetch_add(1, Ordering::SeqCst);
        self.asked.fetch_add(1, Ordering::SeqCst);
        Asking(self)
    }

    /// The next hint. After an error the next call begins anew. Dropping the future loses nothing: a hint leaves the
    /// consumer only into the hands of the caller.
    pub(super) async fn next(self: &Arc<Self>, link: &Link) -> Result<Delivery, QueueError> {
        let mut open = self.open.lock().await;
        // Dropped while it begins to consume, the channel closes, and what the broker sent into it goes back.
        let before = open.take();
        let now = open.insert(self.ready(before, link).await?);
        let received = self.receive(now).await;
        if received.is_err() {
            let session = Arc::clone(&now.session);
            *open = None;
            link.lost(&session);
        }
        received
    }

    /// With a consumer, on the session of before or of now.
    async fn ready(
        self: &Arc<Self>,
        before: Option<Open>,
        link: &Link,
    ) -> Result<Open, QueueError> {
        let session = match &before {
            Some(open) => Arc::clone(&open.session),
            None => link.session().await?,
        };
        let asked = async {
            let open = match before {
                Some(open) => open,
                None => Open::new(Arc::clone(&session)).await?,
            };
            self.consuming(open).await
        };
        let ready = timeout(ANSWER, asked).await.unwrap_or_else(|_| {
            let late = format!("the broker does not answer about the queue {}", self.queue);
            Err(QueueError::Unavailable(late))
        });
        if ready.is_err() {
            link.lost(&session);
        }
        ready
    }

    /// With a consumer, and a watch over it.
    async fn consuming(self: &Arc<Self>, mut open: Open) -> Result<Open, QueueError> {
        if open.consumer.is_none() {
            open.consumer = Some(self.consume(&open.channel).await?);
            open.watch = JoinSet::new();
            open.watch.spawn(give_back_when_idle(Arc::downgrade(self)));
        }
        Ok(open)
    }

    async fn receive(&self, open: &mut Open) -> Result<Delivery, QueueError> {
        while let Some(message) = open.message().await {
            let message = message.map_err(unavailable)?;
            if let Some(at) = message::decode(&message.data) {
                return Ok(Delivery::new(at, Box::new(InFlight::new(message.acker))));
            }
            let (queue, bytes) = (&self.queue, message.data.len());
            tracing::warn!(%queue, bytes, "dropped a message that is no hint");
            answered(message.acker.reject(BasicRejectOptions { requeue: false })).await?;
        }
        let queue = &self.queue;
        Err(QueueError::Unavailable(format!(
            "the broker sends no more of the queue {queue}"
        )))
    }

    async fn consume(&self, channel: &Channel) -> Result<Consumer, QueueError> {
        let options = BasicConsumeOptions::default();
        let queue = self.queue.as_str().into();
        channel
            .basic_consume(queue, "".into(), options, FieldTable::default())
            .await
            .map_err(unavailable)
    }

    /// Gives back what was sent ahead. What receivers hold stays theirs.
    async fn close(&self, open: &mut Open) {
        let Some(mut consumer) = open.consumer.take() else {
            return;
        };
        let options = BasicCancelOptions::default();
        if let Err(error) = open.channel.basic_cancel(consumer.tag(), options).await {
            tracing::debug!(%error, "hints go back with their connection");
            return;
        }
        while let Some(Some(Ok(message))) = consumer.next().now_or_never() {
            give_back(&message.acker).await;
        }
    }
}

/// Watches an inbox with a consumer until nobody has asked for a whole [`LINGER`].
async fn give_back_when_idle(inbox: Weak<Inbox>) {
    let mut before = None;
    loop {
        tokio::time::sleep(LINGER).await;
        let Some(inbox) = inbox.upgrade() else {
            return;
        };
        let asked = inbox.asked.load(Ordering::SeqCst);
        let idle = inbox.asking.load(Ordering::SeqCst) == 0 && before == Some(asked);
        before = Some(asked);
        if !idle {
            continue;
        }
        let mut open = inbox.open.lock().await;
        if inbox.asked.load(Ordering::SeqCst) == asked {
            if let Some(now) = open.as_mut()
                && timeout(ANSWER, inbox.close(now)).await.is_err()
            {
                // With its channel goes back whatever it had.
                *open = None;
            }
            return;
        }
    }
}
