//! The queues on the broker: their names, and that they are there.

use lapin::Channel;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable, LongString};

use crate::job::QueueLane;
use crate::ports::QueueError;

/// Messages that the dead queue keeps; the oldest go.
const DEAD_MOST: i32 = 10_000;

/// Which queues there are to be.
pub(super) struct Topology {
    lifecycle: String,
    work: String,
    dead: String,
    declare: bool,
}

impl Topology {
    pub(super) fn new(topic: &str, declare: bool) -> Self {
        Self {
            lifecycle: format!("{topic}.lifecycle"),
            work: format!("{topic}.work"),
            dead: format!("{topic}.dead"),
            declare,
        }
    }

    pub(super) fn queue(&self, lane: QueueLane) -> &str {
        match lane {
            QueueLane::Lifecycle => &self.lifecycle,
            QueueLane::Work => &self.work,
        }
    }

    /// Makes what is missing, or checks that nothing is.
    pub(super) async fn ensure(&self, channel: &Channel) -> Result<(), QueueError> {
        if !self.declare {
            return self.check(channel).await;
        }
        let mut dead = quorum();
        dead.insert("x-max-length".into(), AMQPValue::LongInt(DEAD_MOST));
        self.make(channel, &self.dead, dead).await?;
        for queue in [&self.lifecycle, &self.work] {
            let mut arguments = quorum();
            arguments.insert("x-dead-letter-exchange".into(), text(""));
            arguments.insert("x-dead-letter-routing-key".into(), text(&self.dead));
            self.make(channel, queue, arguments).await?;
        }
        Ok(())
    }

    /// Whether the queues of both lanes are there. The channel is of no use after an error.
    pub(super) async fn check(&self, channel: &Channel) -> Result<(), QueueError> {
        for queue in [&self.lifecycle, &self.work] {
            let options = QueueDeclareOptions::durable().passive();
            let found =
                channel.queue_declare(queue.as_str().into(), options, FieldTable::default());
            found.await.map_err(|error| {
                QueueError::Unavailable(format!(
                    "the queue {queue} cannot be used: {error}. Where it is missing, set queue.declare to true, or \
                     declare it on the broker: durable, x-queue-type quorum"
                ))
            })?;
        }
        Ok(())
    }

    async fn make(
        &self,
        channel: &Channel,
        queue: &str,
        arguments: FieldTable,
    ) -> Result<(), QueueError> {
        let made = channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments);
        made.await.map(drop).map_err(|error| {
            QueueError::Unavailable(format!(
                "the queue {queue} cannot be made: {error}. Where it is there with other arguments, delete it, choose \
                 another queue.topic, or set queue.declare to false to use it as it is"
            ))
        })
    }
}

fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(text))
}
