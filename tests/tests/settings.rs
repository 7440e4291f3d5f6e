//! `docs/settings.md` names every key, in its section, with its default, and no key that there is not.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// The rows of the tables below a heading `` ### `section` ``: keys and defaults as they are written.
fn documented() -> BTreeMap<String, String> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/settings.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let mut section = None;
    let mut keys = BTreeMap::new();
    for line in page.lines() {
        if line.starts_with('#') {
            let name = line.strip_prefix("### `");
            section = name.map(|name| name.trim_end_matches('`').to_owned());
        }
        let (Some(section), true) = (&section, line.starts_with("| `")) else {
            continue;
        };
        let cells: Vec<_> = line.trim_matches('|').split(" | ").collect();
        let names = cells[0].split(", ").map(plain);
        let defaults = cells[1].split(", ").map(plain);
        keys.extend(names.map(|name| format!("{section}.{name}")).zip(defaults));
    }
    keys
}

fn plain(cell: &str) -> String {
    cell.trim().trim_matches('`').to_owned()
}

#[test]
fn every_key_is_documented_and_no_other() {
    let documented: BTreeSet<_> = documented().into_keys().collect();
    let known: BTreeSet<_> = shared::config::known_keys().into_keys().collect();
    assert_eq!(documented, known);
}

#[test]
fn the_defaults_are_the_programs() {
    let documented = documented();
    for (key, default) in shared::config::known_keys() {
        let default = match default {
            // It follows the data folder.
            Value::Null => continue,
            Value::String(text) => text,
            other => other.to_string(),
        };
        assert_eq!(documented.get(&key), Some(&default), "{key}");
    }
}
