//! What is kept open: a value per key, with who uses it and since when nobody does.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Kept values.
pub(super) struct Shelf<K, T> {
    kept: HashMap<K, Kept<T>>,
    numbers: u64,
}

struct Kept<T> {
    value: T,
    ticket: Ticket,
    used: Instant,
}

/// Held by whoever uses a value; copies of it are the same use.
#[derive(Debug, Clone)]
pub(crate) struct Ticket {
    number: u64,
    users: Arc<()>,
}

impl<K, T> Default for Shelf<K, T> {
    fn default() -> Self {
        Self {
            kept: HashMap::new(),
            numbers: 0,
        }
    }
}

impl<K: Hash + Eq, T: Clone> Shelf<K, T> {
    /// The value, used from now on.
    pub(super) fn get(&mut self, key: &K, now: Instant) -> Option<(T, Ticket)> {
        let kept = self.kept.get_mut(key)?;
        kept.used = now;
        Some((kept.value.clone(), kept.ticket.clone()))
    }

    /// Keeps a value in place of another.
    pub(super) fn put(&mut self, key: K, value: T, now: Instant) -> Ticket {
        let ticket = self.loose();
        let kept = Kept {
            value,
            ticket: ticket.clone(),
            used: now,
        };
        self.kept.insert(key, kept);
        ticket
    }

    /// For the use of a value that is not kept any more.
    pub(super) fn loose(&mut self) -> Ticket {
        self.numbers += 1;
        Ticket {
            number: self.numbers,
            users: Arc::default(),
        }
    }

    /// Drops a value, unless it was replaced already.
    pub(super) fn forget(&mut self, key: &K, ticket: &Ticket) {
        let is_it = |kept: &Kept<T>| kept.ticket.number == ticket.number;
        if self.kept.get(key).is_some_and(is_it) {
            self.kept.remove(key);
        }
    }

    /// Drops all values but those of some keys.
    pub(super) fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        self.kept.retain(|key, _| keep(key));
    }

    /// Drops what nobody uses and nobody has used for that long. One that is used counts as used now.
    pub(super) fn drop_idle(&mut self, now: Instant, idle: Duration) {
        self.kept.retain(|_, kept| {
            if Arc::strong_count(&kept.ticket.users) > 1 {
                kept.used = now;
            }
            now.saturating_duration_since(kept.used) < idle
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(300);

    #[test]
    fn what_broke_is_dropped_and_what_replaced_it_is_not() {
        let (mut shelf, now) = (Shelf::default(), Instant::now());
        let first = shelf.put("a", 1, now);
        assert_eq!(shelf.get(&"a", now).unwrap().0, 1);
        let second = shelf.put("a", 2, now);
        shelf.forget(&"a", &first);
        assert_eq!(shelf.get(&"a", now).unwrap().0, 2);
        shelf.forget(&"a", &second);
        assert!(shelf.get(&"a", now).is_none());
    }

    #[test]
    fn only_what_was_not_used_for_long_is_dropped() {
        let (mut shelf, start) = (Shelf::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        drop(shelf.put("idle", 1, start));
        drop(shelf.put("fetched", 2, start));
        let used = shelf.put("used", 3, start);
        assert!(shelf.get(&"fetched", at(200)).is_some());
        shelf.drop_idle(at(299), IDLE);
        assert_eq!(shelf.kept.len(), 3);
        shelf.drop_idle(at(300), IDLE);
        assert!(!shelf.kept.contains_key("idle"));
        assert_eq!(shelf.kept.len(), 2);
        shelf.drop_idle(at(500), IDLE);
        let copy = used.clone();
        drop(used);
        shelf.drop_idle(at(900), IDLE);
        assert!(shelf.kept.contains_key("used"));
        assert!(!shelf.kept.contains_key("fetched"));
        // From its last use on it has its time again.
        drop(copy);
        shelf.drop_idle(at(1199), IDLE);
        assert!(shelf.kept.contains_key("used"));
        shelf.drop_idle(at(1200), IDLE);
        assert!(shelf.kept.is_empty());
    }
}
