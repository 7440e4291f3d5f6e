//! What the cluster's events say of pods and claims: the last word about each.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Event as Said;
use kube::ResourceExt as _;
use kube::runtime::watcher::Event;

use super::names;
use super::state::Word;

/// Words that are kept at most. Events are made by the cluster's own parts and go after an hour by themselves.
const MOST: usize = 20_000;

/// The words about pods and claims, by the uid of the object.
#[derive(Default)]
pub(super) struct Words {
    of: HashMap<String, Vec<Entry>>,
    count: usize,
}

struct Entry {
    /// The event's own name.
    event: String,
    /// Grows with every change anywhere in the cluster, so the last word has the highest.
    version: u64,
    word: Word,
}

impl Words {
    /// The last word about an object.
    pub(super) fn last(&self, uid: &str) -> Option<&Word> {
        let entries = self.of.get(uid)?;
        let last = entries.iter().max_by_key(|entry| entry.version)?;
        Some(&last.word)
    }

    /// Takes in what the watch says.
    pub(super) fn take(&mut self, event: Event<Said>) {
        match event {
            Event::Apply(said) | Event::InitApply(said) => self.put(said),
            Event::Delete(said) => self.drop(&said),
            Event::Init => *self = Self::default(),
            Event::InitDone => {}
        }
    }

    fn put(&mut self, said: Said) {
        if !is_of_use(&said) || self.count >= MOST {
            return;
        }
        self.drop(&said);
        let Some(uid) = said.involved_object.uid.clone() else {
            return;
        };
        self.count += 1;
        self.of.entry(uid).or_default().push(Entry {
            event: said.name_any(),
            version: version(&said),
            word: Word {
                reason: said.reason.unwrap_or_default(),
                message: said.message.unwrap_or_default(),
            },
        });
    }

    fn drop(&mut self, said: &Said) {
        let uid = said.involved_object.uid.as_deref().unwrap_or_default();
        let Some(entries) = self.of.get_mut(uid) else {
            return;
        };
        let name = said.name_any();
        let before = entries.len();
        entries.retain(|entry| entry.event != name);
        self.count -= before - entries.len();
        if entries.is_empty() {
            self.of.remove(uid);
        }
    }
}

/// Warnings about pods, and everything about claims, whose troubles come as ordinary words.
fn is_of_use(said: &Said) -> bool {
    let object = &said.involved_object;
    let named = object.name.as_deref().unwrap_or_default();
    let counts = match object.kind.as_deref() {
        Some("Pod") => said.type_.as_deref() == Some("Warning"),
        Some("PersistentVolumeClaim") => true,
        _ => false,
    };
    counts && named.starts_with(names::PREFIX)
}

/// The API server promises no order of these in general, but every one there is has it.
fn version(said: &Said) -> u64 {
    said.resource_version()
        .and_then(|version| version.parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ObjectReference;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    fn said(event: &str, version: u64, kind: &str, type_: &str) -> Said {
        Said {
            metadata: ObjectMeta {
                name: Some(event.to_owned()),
                resource_version: Some(version.to_string()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                kind: Some(kind.to_owned()),
                name: Some("em-abc".to_owned()),
                uid: Some("u".to_owned()),
                ..ObjectReference::default()
            },
            reason: Some(event.to_owned()),
            message: Some(format!("{event} {version}")),
            type_: Some(type_.to_owned()),
            ..Said::default()
        }
    }

    fn last(words: &Words) -> Option<&str> {
        words.last("u").map(|word| word.message.as_str())
    }

    #[test]
    fn the_last_word_counts_and_goes_with_its_event() {
        let mut words = Words::default();
        assert_eq!(last(&words), None);
        words.take(Event::Apply(said("a", 7, "Pod", "Warning")));
        words.take(Event::Apply(said(
            "b",
            8,
            "PersistentVolumeClaim",
            "Normal",
        )));
        words.take(Event::Apply(said("c", 9, "Pod", "Normal")));
        words.take(Event::Apply(said("d", 9, "Node", "Warning")));
        assert_eq!(last(&words), Some("b 8"));
        words.take(Event::Apply(said("a", 10, "Pod", "Warning")));
        assert_eq!((last(&words), words.count), (Some("a 10"), 2));
        words.take(Event::Delete(said("a", 10, "Pod", "Warning")));
        assert_eq!(last(&words), Some("b 8"));
        words.take(Event::Init);
        assert_eq!((last(&words), words.count), (None, 0));
    }

    #[test]
    fn a_flood_of_events_is_bounded() {
        let mut words = Words::default();
        for number in 0..=MOST {
            let mut said = said("a", 1, "Pod", "Warning");
            said.involved_object.uid = Some(number.to_string());
            words.take(Event::Apply(said));
        }
        assert_eq!(words.count, MOST);
    }
}
