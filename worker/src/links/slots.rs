//! How many large transfers one environment has at a time: so many that their windows fit into the connection's, and
//! none can starve the others of it by standing still.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use shared::ids::EnvironmentUid;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Slots by environment. What nobody holds or waits for costs nothing.
pub(super) struct Slots {
    each: usize,
    open: Mutex<HashMap<EnvironmentUid, Weak<Semaphore>>>,
}

/// One transfer's right to be under way.
pub(crate) struct Slot {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Slots {
    pub(super) fn new(each: usize) -> Self {
        Self {
            each,
            open: Mutex::default(),
        }
    }

    /// Waits for a slot, in turn.
    pub(super) async fn take(&self, uid: &EnvironmentUid) -> Slot {
        let semaphore = self.of(uid);
        // They are never closed, so there is always a permit in the end.
        Slot {
            _permit: semaphore.acquire_owned().await.ok(),
        }
    }

    fn of(&self, uid: &EnvironmentUid) -> Arc<Semaphore> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(semaphore) = open.get(uid).and_then(Weak::upgrade) {
            return semaphore;
        }
        open.retain(|_, semaphore| semaphore.strong_count() > 0);
        let semaphore = Arc::new(Semaphore::new(self.each));
        open.insert(uid.clone(), Arc::downgrade(&semaphore));
        semaphore
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn uid(text: &str) -> EnvironmentUid {
        EnvironmentUid::new(text).unwrap()
    }

    #[tokio::test]
    async fn each_environment_has_its_own_and_they_come_back() {
        let slots = Slots::new(2);
        let (one, other) = (uid("aaaaaaaaaa"), uid("bbbbbbbbbb"));
        let first = slots.take(&one).await;
        let _second = slots.take(&one).await;
        assert!(slots.take(&one).now_or_never().is_none());
        assert!(slots.take(&other).now_or_never().is_some());
        drop(first);
        assert!(slots.take(&one).now_or_never().is_some());
        assert_eq!(slots.open.lock().unwrap().len(), 2);
        slots.take(&uid("cccccccccc")).await;
        assert_eq!(slots.open.lock().unwrap().len(), 2);
    }
}
