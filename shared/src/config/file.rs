//! The settings file: TOML with one table per section.

use std::path::Path;

use toml::{Table, Value};

use super::fault::{Fault, Origin};
use super::keys;
use super::layers::{Layers, one_line};

/// Adds what the file says. A file that cannot be read, or is no TOML, is one fault.
pub(super) fn read(path: &Path, layers: &mut Layers) {
    match parse(path) {
        Ok(sections) => {
            for (section, keys) in sections {
                put_section(&section, keys, path, layers);
            }
        }
        Err(message) => layers.faults.push(Fault::of_source(&origin(path), message)),
    }
}

fn origin(path: &Path) -> Origin {
    Origin::File(path.to_owned())
}

fn parse(path: &Path) -> Result<Table, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot be read: {error}; give a TOML file to --config"))?;
    text.parse().map_err(|error: toml::de::Error| {
        let line = error
            .span()
            .map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        format!("line {line} is no TOML: {}", one_line(error.message()))
    })
}

fn put_section(section: &str, keys: Value, path: &Path, layers: &mut Layers) {
    let is_section = keys::known().keys().any(|key| {
        key.split_once('.')
            .is_some_and(|(known, _)| known == section)
    });
    match keys {
        Value::Table(keys) if is_section || !keys.is_empty() => {
            for (key, value) in keys {
                put_key(&format!("{section}.{key}"), value, path, layers);
            }
        }
        _ if is_section => {
            let message = format!("this is a section: write its keys below a line [{section}]");
            layers.fault(section, &origin(path), message);
        }
        _ => layers.fault(
            section,
            &origin(path),
            keys::unknown(section, str::to_owned),
        ),
    }
}

fn put_key(key: &str, value: Value, path: &Path, layers: &mut Layers) {
    if keys::known().contains_key(key) {
        layers.put(key, value, origin(path));
    } else {
        layers.fault(key, &origin(path), keys::unknown(key, str::to_owned));
    }
}
