//! The keys that there are, taken from the section structs themselves, and the nearest one to a mistyped key.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Settings;

/// Every key as `section.key`, with its default as JSON: `null` where nothing is set.
pub fn known() -> BTreeMap<String, Value> {
    let Ok(Value::Object(sections)) = serde_json::to_value(Settings::default()) else {
        return BTreeMap::new();
    };
    let keys_of = |(section, keys): (String, Value)| match keys {
        Value::Object(keys) => keys
            .into_iter()
            .map(|(key, default)| (format!("{section}.{key}"), default))
            .collect::<Vec<_>>(),
        _ => Vec::new(),
    };
    sections.into_iter().flat_map(keys_of).collect()
}

/// What to say of a key that there is not: names the nearest one, as `write` writes it, if one is near.
pub(super) fn unknown(key: &str, write: impl Fn(&str) -> String) -> String {
    let wanted = key.to_ascii_lowercase();
    let nearest = known()
        .into_keys()
        .map(|known| (distance(&wanted, &known), known))
        .min();
    match nearest {
        Some((steps, known)) if steps <= 2 + wanted.len() / 5 => {
            format!("there is no such setting; did you mean {}?", write(&known))
        }
        _ => {
            "there is no such setting; `environment-manager config show` lists them all".to_owned()
        }
    }
}

/// How far apart two keys are. A key in the wrong section is near.
fn distance(wanted: &str, known: &str) -> usize {
    let key_of = |text: &str| text.rsplit('.').next().unwrap_or_default().to_owned();
    let same_key = wanted.contains('.') && key_of(wanted) == key_of(known);
    let steps = strsim::damerau_levenshtein(wanted, known);
    if same_key { steps.min(2) } else { steps }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advice(key: &str) -> String {
        unknown(key, str::to_owned)
    }

    #[test]
    fn every_section_has_keys() {
        let keys = known();
        for key in ["server.listen", "auth.keys_file", "worker.concurrency"] {
            assert!(keys.contains_key(key), "{key} of {keys:?}");
        }
    }

    #[test]
    fn a_near_key_is_proposed_and_a_far_one_is_not() {
        for (wrong, right) in [
            ("server.listne", "server.listen"),
            ("Server.Listen", "server.listen"),
            ("worker.default_image", "runtime.default_image"),
            ("worker.concurency", "worker.concurrency"),
        ] {
            assert!(
                advice(wrong).contains(&format!("mean {right}?")),
                "{wrong}: {}",
                advice(wrong)
            );
        }
        assert!(
            !advice("weather.tomorrow").contains("mean"),
            "{}",
            advice("weather.tomorrow")
        );
    }
}
