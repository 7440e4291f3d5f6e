//! Work on environments that a sweep begins and does not wait for.
//!
//! A kill may take a minute, and a connection to what hangs may take as long. Invariants: no two such works on the same
//! environment go on at once, what is begun again meanwhile is left out; so many at most go on at once, the others wait
//! their turn; those that go on when the worker stops are dropped, as by a crash.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use shared::ids::EnvironmentUid;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Works that go on at once.
const AT_ONCE: usize = 16;

/// The works of one worker's sweeps.
pub(crate) struct Tending {
    works: TaskTracker,
    slots: Arc<Semaphore>,
    tended: Arc<Mutex<HashSet<EnvironmentUid>>>,
    stop: CancellationToken,
}

impl Tending {
    /// None yet; they end with `stop`.
    pub(crate) fn until(stop: CancellationToken) -> Self {
        Self {
            works: TaskTracker::new(),
            slots: Arc::new(Semaphore::new(AT_ONCE)),
            tended: Arc::default(),
            stop,
        }
    }

    /// Begins work on an environment, unless there is some going on; it is begun again at a later round then.
    pub(crate) fn begin(
        &self,
        uid: &EnvironmentUid,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let Some(mark) = Mark::set(&self.tended, uid) else {
            return;
        };
        let (slots, stop) = (Arc::clone(&self.slots), self.stop.clone());
        self.works.spawn(async move {
            let _mark = mark;
            let work = async {
                let _slot = slots.acquire().await;
                work.await;
            };
            stop.run_until_cancelled(work).await;
        });
    }

    /// Returns when none goes on any more. Call it once they were told to end.
    pub(crate) async fn ended(&self) {
        self.works.close();
        self.works.wait().await;
    }
}

/// Says that an environment is worked on, until it is dropped.
struct Mark {
    tended: Arc<Mutex<HashSet<EnvironmentUid>>>,
    uid: EnvironmentUid,
}

impl Mark {
    fn set(tended: &Arc<Mutex<HashSet<EnvironmentUid>>>, uid: &EnvironmentUid) -> Option<Self> {
        let fresh = tended
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(uid.clone());
        fresh.then(|| Self {
            tended: Arc::clone(tended),
            uid: uid.clone(),
        })
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        let mut tended = self.tended.lock().unwrap_or_else(PoisonError::into_inner);
        tended.remove(&self.uid);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    fn uid(number: usize) -> EnvironmentUid {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        EnvironmentUid::from_random(bytes)
    }

    async fn until(condition: impl Fn() -> bool) {
        while !condition() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn one_that_hangs_is_worked_on_once_and_keeps_no_other_waiting() {
        let stop = CancellationToken::new();
        let tending = Tending::until(stop.clone());
        let begun = Arc::new(AtomicUsize::new(0));
        let hang = || {
            let begun = Arc::clone(&begun);
            async move {
                begun.fetch_add(1, Ordering::SeqCst);
                std::future::pending::<()>().await;
            }
        };
        for _ in 0..3 {
            tending.begin(&uid(0), hang());
        }
        let done = Arc::new(Notify::new());
        let other = Arc::clone(&done);
        tending.begin(&uid(1), async move { other.notify_one() });
        done.notified().await;
        assert_eq!(begun.load(Ordering::SeqCst), 1);
        stop.cancel();
        tending.ended().await;
    }

    #[tokio::test]
    async fn only_so_many_go_on_at_once_and_the_others_have_their_turn() {
        let stop = CancellationToken::new();
        let tending = Tending::until(stop.clone());
        let (going, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (gate, done) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        for number in 0..3 * AT_ONCE {
            let (going, most) = (Arc::clone(&going), Arc::clone(&most));
            let (gate, done) = (Arc::clone(&gate), Arc::clone(&done));
            tending.begin(&uid(number), async move {
                most.fetch_max(going.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                if let Ok(passed) = gate.acquire().await {
                    passed.forget();
                }
                going.fetch_sub(1, Ordering::SeqCst);
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        until(|| going.load(Ordering::SeqCst) == AT_ONCE).await;
        gate.add_permits(3 * AT_ONCE);
        until(|| done.load(Ordering::SeqCst) == 3 * AT_ONCE).await;
        assert_eq!(most.load(Ordering::SeqCst), AT_ONCE);
        // What has ended may be begun again.
        let again = Arc::new(Notify::new());
        let begun = Arc::clone(&again);
        until(|| tending.tended.lock().expect("unlocked").is_empty()).await;
        tending.begin(&uid(0), async move { begun.notify_one() });
        again.notified().await;
        stop.cancel();
        tending.ended().await;
    }
}
