//! How long what could not be held ready is left alone: twice as long after every failure, until it goes well.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// After the first failure.
const FIRST: Duration = Duration::from_secs(10);
/// After many.
const LONGEST: Duration = Duration::from_mins(5);

/// Of each image that failed, since when and how long it is left alone.
#[derive(Debug, Default)]
pub(super) struct Pauses(Mutex<HashMap<String, Pause>>);

#[derive(Debug, Clone, Copy)]
struct Pause {
    since: Instant,
    length: Duration,
}

impl Pauses {
    /// Whether it is not to be tried yet.
    pub(super) fn is_paused(&self, image: &str, now: Instant) -> bool {
        let pauses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pauses
            .get(image)
            .is_some_and(|pause| now.saturating_duration_since(pause.since) < pause.length)
    }

    /// Notes how a try went.
    pub(super) fn note(&self, image: &str, well: bool, now: Instant) {
        let mut pauses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if well {
            pauses.remove(image);
            return;
        }
        let before = pauses.get(image).map(|pause| pause.length * 2);
        let length = before.map_or(FIRST, |length| length.min(LONGEST));
        pauses.insert(image.to_owned(), Pause { since: now, length });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_doubles_up_to_the_longest_and_ends_when_it_goes_well() {
        let (pauses, mut now) = (Pauses::default(), Instant::now());
        for seconds in [10, 20, 40, 80, 160, 300, 300] {
            assert!(!pauses.is_paused("a", now));
            pauses.note("a", false, now);
            now += Duration::from_secs(seconds - 1);
            assert!(pauses.is_paused("a", now), "{seconds}");
            assert!(!pauses.is_paused("b", now));
            now += Duration::from_secs(1);
        }
        pauses.note("a", true, now);
        pauses.note("a", false, now);
        now += FIRST;
        assert!(!pauses.is_paused("a", now));
    }
}
