//! Time and randomness, injected, so that tests can set the one and repeat the other.

use std::time::Instant;

use jiff::Timestamp;
use uuid::Uuid;

use crate::ids::{JobId, WorkerId};

/// The time of day, a monotonic time, and random bytes.
pub trait Clock: Send + Sync {
    /// The time of day. It may jump: nothing is ever decided by comparing it between machines.
    fn now(&self) -> Timestamp;

    /// Time that only goes forward, of this process alone.
    fn monotonic(&self) -> Instant;

    /// Random bytes, good enough for keys.
    fn random(&self) -> [u8; 16];
}

/// The machine's own clock and randomness.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the one place that asks the machine"
    )]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Instant {
        Instant::now()
    }

    fn random(&self) -> [u8; 16] {
        rand::random()
    }
}

/// A new job id: a UUID of version 7 from the clock's time and randomness.
pub fn new_job_id(clock: &dyn Clock) -> JobId {
    let millis = u64::try_from(clock.now().as_millisecond()).unwrap_or_default();
    let random = clock.random();
    let mut tail = [0; 10];
    tail.copy_from_slice(&random[..10]);
    JobId::from_uuid(uuid::Builder::from_unix_timestamp_millis(millis, &tail).into_uuid())
}

/// A new worker id: random, since it must never come back.
pub fn new_worker_id(clock: &dyn Clock) -> WorkerId {
    let id = Uuid::from_bytes(clock.random()).simple().to_string();
    WorkerId::new(id)
        .unwrap_or_else(|_| unreachable!("hexadecimal digits keep the rule of worker ids"))
}
