//! One connection to the broker, from its making to its loss.

use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::uri::AMQPUri;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};

use tokio::time::timeout;

use super::topology::Topology;
use crate::ports::QueueError;

/// How long the broker may take to answer. Who asks on a connection that is just being lost may never hear of it from the
/// library.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// The delivery mode of messages that outlive the broker.
const PERSISTENT: u8 = 2;

/// A connection, and the channel on which it publishes.
pub(super) struct Session {
    connection: Connection,
    publisher: Channel,
}

impl Session {
    /// Connects, and makes or checks the queues.
    pub(super) async fn open(uri: AMQPUri, topology: &Topology) -> Result<Self, QueueError> {
        let name =
            ConnectionProperties::default().with_connection_name("environment-manager".into());
        let connection = Connection::connect_uri(uri, name)
            .await
            .map_err(unavailable)?;
        let publisher = connection.create_channel().await.map_err(unavailable)?;
        topology.ensure(&publisher).await?;
        publisher
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .map_err(unavailable)?;
        Ok(Self {
            connection,
            publisher,
        })
    }

    /// Whether it still carries anything, as far as is known.
    pub(super) fn is_open(&self) -> bool {
        self.connection.status().connected() && self.publisher.status().connected()
    }

    /// A channel of one's own.
    pub(super) async fn channel(&self) -> Result<Channel, QueueError> {
        self.connection.create_channel().await.map_err(unavailable)
    }

    /// Publishes, and waits for the broker's word that the queue has it.
    pub(super) async fn publish(&self, queue: &str, body: &[u8]) -> Result<(), QueueError> {
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
        let sent = self
            .publisher
            .basic_publish("".into(), queue.into(), options, body, properties)
            .await
            .map_err(unavailable)?;
        match sent.await.map_err(unavailable)? {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(_)) => Err(refused(queue, "there is no such queue")),
            Confirmation::Nack(_) => Err(refused(queue, "the broker could not keep it")),
            Confirmation::NotRequested => Err(refused(queue, "the broker confirms nothing")),
        }
    }
}

/// What the broker answers, if it does within [`ANSWER`].
pub(super) async fn answered<T>(
    asked: impl Future<Output = lapin::Result<T>>,
) -> Result<T, QueueError> {
    match timeout(ANSWER, asked).await {
        Ok(answer) => answer.map_err(unavailable),
        Err(_) => Err(unavailable("the broker does not answer")),
    }
}

pub(super) fn unavailable(error: impl std::fmt::Display) -> QueueError {
    QueueError::Unavailable(error.to_string())
}

fn refused(queue: &str, why: &str) -> QueueError {
    QueueError::Unavailable(format!("a hint did not reach the queue {queue}: {why}"))
}
