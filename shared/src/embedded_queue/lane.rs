//! One lane: what is buffered, in flight and returned, and how far the store was read.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::ids::{JobId, JobRef};

/// How long a hint that was given back rests, so that a receiver which cannot settle anything does not spin.
const REST: Duration = Duration::from_millis(250);

/// What a receiver shall do.
pub(super) enum Next {
    /// Deliver this.
    Hint(JobRef),
    /// Read the store.
    Behind,
    /// Wait for a change, or until a returned hint has rested.
    Wait { until: Option<Instant> },
}

/// Which part of the store to read.
pub(super) struct Page {
    /// Jobs accepted after this one.
    pub(super) after: Option<JobId>,
    /// At most so many.
    pub(super) limit: u32,
}

/// One lane of the queue.
pub(super) struct Lane {
    capacity: usize,
    hints: Mutex<Hints>,
    /// Something can be received, or a rest has begun.
    pub(super) changed: Notify,
    /// Held by the receiver that reads the store.
    pub(super) reading: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Hints {
    buffer: VecDeque<JobRef>,
    /// In the order of their times, since all rest equally long.
    returned: VecDeque<(Instant, JobRef)>,
    /// Every job in this lane, so that none is in it twice.
    known: HashMap<JobRef, Place>,
    behind: Option<Behind>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the buffer or returned.
    Waiting,
    InFlight,
    /// In flight, and published again meanwhile: the receiver may have looked at the job before the reason of that.
    InFlightAndWanted,
}

/// The store may hold jobs that the lane does not know.
#[derive(Clone, Copy, Default)]
struct Behind {
    /// The store was read up to this job.
    after: Option<JobId>,
    /// A hint was dropped since the reading began: it begins anew at its end.
    missed: bool,
}

impl Lane {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            hints: Mutex::new(Hints {
                behind: Some(Behind::default()),
                ..Hints::default()
            }),
            changed: Notify::new(),
            reading: tokio::sync::Mutex::new(()),
        }
    }

    /// Takes a hint in, or notes that one was dropped.
    pub(super) fn publish(&self, at: &JobRef) {
        let mut hints = self.lock();
        match hints.known.get_mut(at) {
            Some(Place::Waiting | Place::InFlightAndWanted) => {}
            Some(place @ Place::InFlight) => *place = Place::InFlightAndWanted,
            None => {
                hints.take_in(at.clone(), self.capacity);
                drop(hints);
                self.changed.notify_one();
            }
        }
    }

    /// What there is for a receiver.
    pub(super) fn next(&self) -> Next {
        let mut hints = self.lock();
        hints.wake_rested(Instant::now());
        if let Some(at) = hints.buffer.pop_front() {
            hints.known.insert(at.clone(), Place::InFlight);
            return Next::Hint(at);
        }
        // While as many rest as fit, reading on would only fill the memory with hints that nobody can settle.
        if hints.behind.is_some() && hints.returned.len() < self.capacity {
            return Next::Behind;
        }
        Next::Wait {
            until: hints.returned.front().map(|(until, _)| *until),
        }
    }

    /// The hint is not needed any more, unless it was published again after it was delivered.
    pub(super) fn settle(&self, at: &JobRef) {
        let mut hints = self.lock();
        if hints.known.remove(at) == Some(Place::InFlightAndWanted) {
            hints.take_in(at.clone(), self.capacity);
            drop(hints);
            self.changed.notify_one();
        }
    }

    /// The hint comes again after a rest.
    pub(super) fn give_back(&self, at: JobRef) {
        let mut hints = self.lock();
        hints.known.insert(at.clone(), Place::Waiting);
        hints.returned.push_back((Instant::now() + REST, at));
        drop(hints);
        // All of them: a single one that were woken to wait for the rest might be dropped while it waits.
        self.changed.notify_waiters();
    }

    /// Which page to read; none if another receiver has filled the buffer or the lane has caught up meanwhile.
    pub(super) fn begin_page(&self) -> Option<Page> {
        let hints = self.lock();
        let behind = hints.behind.filter(|_| hints.buffer.is_empty())?;
        Some(Page {
            after: behind.after,
            limit: u32::try_from(self.capacity).unwrap_or(u32::MAX),
        })
    }

    /// Takes in what the store held. A page that is not full is the last one.
    pub(super) fn end_page(&self, page: &Page, found: Vec<JobRef>) {
        let mut hints = self.lock();
        let last = found.last().map(|at| at.job);
        let full = found.len() >= page.limit as usize;
        let missed = hints.behind.is_some_and(|behind| behind.missed);
        hints.behind = match (full, missed) {
            (true, _) => Some(Behind {
                after: last,
                missed,
            }),
            (false, true) => Some(Behind::default()),
            (false, false) => None,
        };
        for at in found {
            if !hints.known.contains_key(&at) {
                hints.buffer.push_back(at.clone());
                hints.known.insert(at, Place::Waiting);
            }
        }
        drop(hints);
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Hints> {
        self.hints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hints {
    /// Adds a job that is not in the lane.
    fn take_in(&mut self, at: JobRef, capacity: usize) {
        if let Some(behind) = &mut self.behind {
            behind.missed = true;
        } else if self.buffer.len() >= capacity {
            self.behind = Some(Behind::default());
        } else {
            self.buffer.push_back(at.clone());
            self.known.insert(at, Place::Waiting);
        }
    }

    fn wake_rested(&mut self, now: Instant) {
        while let Some((_, at)) = self.returned.pop_front_if(|(until, _)| *until <= now) {
            self.buffer.push_back(at);
        }
    }
}

#[cfg(test)]
mod tests;
