//! Shapes of which nothing is made for a while, since what was made before was refused or did not stay: what is refused
//! once is refused again, and a pod that crashes is replaced by one that does the same.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The first pause of a shape; each one after it is twice as long.
const SHORTEST: Duration = Duration::from_secs(10);
/// The longest pause, and how long after a pause nothing must fail before it is forgotten.
const LONGEST: Duration = Duration::from_mins(5);

/// The pauses, by shape.
#[derive(Default)]
pub(in super::super) struct Pauses(BTreeMap<String, Pause>);

struct Pause {
    until: Instant,
    length: Duration,
}

impl Pauses {
    /// Begins a pause, or a longer one than before.
    pub(super) fn failed(&mut self, shape: &str, now: Instant) {
        let before = self.0.get(shape).map(|pause| pause.length);
        let length = before.map_or(SHORTEST, |before| LONGEST.min(before * 2));
        let until = now + length;
        self.0.insert(shape.to_owned(), Pause { until, length });
    }

    /// Whether nothing of a shape is to be made now. What is long over is forgotten.
    pub(super) fn is_paused(&mut self, shape: &str, now: Instant) -> bool {
        self.0.retain(|_, pause| now < pause.until + LONGEST);
        self.0.get(shape).is_some_and(|pause| now < pause.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_pauses_its_own_shape_for_longer_until_all_is_well_for_long() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut pauses = Pauses::default();
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
