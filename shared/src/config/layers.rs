//! The values that were written somewhere, each with its origin; a later layer replaces an earlier one's.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::fault::{ConfigError, Fault, Origin};
use super::{Settings, keys};

/// What was written so far, by `section.key`.
#[derive(Debug, Default)]
pub(super) struct Layers {
    written: BTreeMap<String, (Value, Origin)>,
    /// What is wrong with what was written.
    pub(super) faults: Vec<Fault>,
}

impl Layers {
    /// Takes a value that has its type already, as a file has. The key must be a known one.
    pub(super) fn put(&mut self, key: &str, value: Value, origin: Origin) {
        let value = match (value, keys::known().get(key)) {
            // For a key that takes a word, `true` is one.
            (Value::Boolean(word), Some(serde_json::Value::String(_))) => {
                Value::String(word.to_string())
            }
            (value, _) => value,
        };
        match deserialize([(key, &value)]) {
            Ok(_) => {
                self.written.insert(key.to_owned(), (value, origin));
            }
            Err(error) => self.fault(key, &origin, one_line(error.message())),
        }
    }

    /// Takes a text, as variables and flags have, for a key whose default says which type it is.
    pub(super) fn put_text(&mut self, key: &str, text: &str, origin: Origin) {
        let value = match keys::known().get(key) {
            Some(serde_json::Value::Number(_)) => {
                let number = text.parse().map(Value::Integer);
                number.map_err(|_| "is no whole number")
            }
            Some(serde_json::Value::Bool(_)) => {
                let choice = text.parse().map(Value::Boolean);
                choice.map_err(|_| "is neither true nor false")
            }
            Some(serde_json::Value::Array(_)) => Ok(list(text)),
            _ => Ok(Value::String(text.to_owned())),
        };
        match value {
            Ok(value) => self.put(key, value, origin),
            Err(why) => self.fault(key, &origin, format!("{text:?} {why}")),
        }
    }

    /// The text that was written for a key, if any was.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.written.get(key).and_then(|(value, _)| value.as_str())
    }

    /// Notes what is wrong with a key.
    pub(super) fn fault(&mut self, key: &str, origin: &Origin, message: impl Into<String>) {
        self.faults.push(Fault::of(key, origin, message));
    }

    /// The settings, and the origin of every known key.
    pub(super) fn finish(self) -> Result<(Settings, BTreeMap<String, Origin>), ConfigError> {
        if !self.faults.is_empty() {
            return Err(ConfigError {
                faults: self.faults,
            });
        }
        let values = self
            .written
            .iter()
            .map(|(key, (value, _))| (key.as_str(), value));
        let settings = deserialize(values)
            .map_err(|error| Fault::of_source(&Origin::Default, one_line(error.message())))?;
        let mut origins: BTreeMap<_, _> = keys::known()
            .into_keys()
            .map(|key| (key, Origin::Default))
            .collect();
        origins.extend(
            self.written
                .into_iter()
                .map(|(key, (_, origin))| (key, origin)),
        );
        Ok((settings, origins))
    }
}

/// Settings with these values written and all others at their defaults.
fn deserialize<'a>(
    values: impl IntoIterator<Item = (&'a str, &'a Value)>,
) -> Result<Settings, toml::de::Error> {
    let mut sections = Table::new();
    for (key, value) in values {
        let (section, key) = key.split_once('.').unwrap_or((key, ""));
        let section = sections
            .entry(section)
            .or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(section) = section {
            section.insert(key.to_owned(), value.clone());
        }
    }
    Value::Table(sections).try_into()
}

/// A list as variables have it: with commas between its parts.
fn list(text: &str) -> Value {
    let parts = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    parts
        .map(|part| Value::String(part.to_owned()))
        .collect::<Vec<_>>()
        .into()
}

/// A message of the parser without its line breaks.
pub(super) fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
