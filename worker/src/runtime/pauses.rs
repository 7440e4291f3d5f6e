//! What nothing is held ready of for a while, since what was made before was refused or did not stay: what is refused once
//! is refused again, and what crashes is replaced by one that does the same.
//!
//! That one could be made again proves nothing: a pause is forgotten when nothing has failed for long after it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The first pause; each one after it is twice as long.
const SHORTEST: Duration = Duration::from_secs(10);
/// The longest pause, and how long after a pause nothing must fail before it is forgotten.
const LONGEST: Duration = Duration::from_mins(5);

/// The pauses, by what they are of: a shape, or an image of which there is no shape yet.
#[derive(Debug, Default)]
pub(super) struct Pauses(Mutex<BTreeMap<String, Pause>>);

#[derive(Debug)]
struct Pause {
    until: Instant,
    length: Duration,
}

impl Pauses {
    /// Begins a pause, or a longer one than before.
    pub(super) fn failed(&self, what: &str, now: Instant) {
        let mut pauses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = pauses.get(what).map(|pause| pause.length);
        let length = before.map_or(SHORTEST, |before| LONGEST.min(before * 2));
        let until = now + length;
        pauses.insert(what.to_owned(), Pause { until, length });
    }

    /// Whether nothing of it is to be made now. What is long over is forgotten.
    pub(super) fn is_paused(&self, what: &str, now: Instant) -> bool {
        let mut pauses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pauses.retain(|_, pause| now < pause.until + LONGEST);
        pauses.get(what).is_some_and(|pause| now < pause.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_pauses_its_own_for_longer_until_all_is_well_for_long() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let pauses = Pauses::default();
        assert!(!pauses.is_paused("a", at(0)));
        pauses.failed("a", at(0));
        assert!(pauses.is_paused("a", at(9)) && !pauses.is_paused("b", at(9)));
        assert!(!pauses.is_paused("a", at(10)));
        pauses.failed("a", at(10));
        assert!(pauses.is_paused("a", at(29)) && !pauses.is_paused("a", at(30)));
        for _ in 0..10 {
            pauses.failed("a", at(30));
        }
        assert!(pauses.is_paused("a", at(329)) && !pauses.is_paused("a", at(330)));
        assert!(!pauses.is_paused("a", at(630)));
        pauses.failed("a", at(630));
        assert!(!pauses.is_paused("a", at(640)));
    }
}
