//! The effective settings as TOML, each line with its origin, no secret in it.
//!
//! What is printed can be given back as a settings file; only secrets have to be filled in again.

use std::fmt::Write;

use toml::{Table, Value};

use super::Loaded;

/// What stands for a secret.
const HIDDEN: &str = "(secret)";

/// The column at which origins stand, where the line is not longer.
const COLUMN: usize = 48;

impl Loaded {
    /// The settings as a TOML file: one table per section, on each line the origin of its value as a comment.
    pub fn show(&self) -> String {
        let mut text = format!(
            "# data folder: {} ({})\n",
            self.data_dir.display(),
            self.data_dir_origin
        );
        for (section, keys) in Table::try_from(&self.settings).unwrap_or_default() {
            let _ = writeln!(text, "\n[{section}]");
            for (key, value) in keys.as_table().into_iter().flatten() {
                let line = format!("{key} = {}", redacted(key, value));
                let origin = self.origin(&format!("{section}.{key}"));
                let _ = writeln!(text, "{line:COLUMN$} # {origin}");
            }
        }
        text
    }
}

/// The value, or what may be shown of it.
fn redacted(key: &str, value: &Value) -> Value {
    let names_a_secret = ["secret", "password", "token"]
        .iter()
        .any(|word| key.split('_').any(|part| part == *word));
    match value {
        Value::String(_) if names_a_secret => Value::String(HIDDEN.to_owned()),
        Value::String(text) => Value::String(without_credentials(text)),
        other => other.clone(),
    }
}

/// A URL without the user and password in it; any other text as it is.
fn without_credentials(text: &str) -> String {
    let parts = text.split_once("://").and_then(|(scheme, rest)| {
        let end = rest.find('/').unwrap_or(rest.len());
        let at = rest[..end].rfind('@')?;
        Some((scheme, &rest[at..]))
    });
    match parts {
        Some((scheme, rest)) => format!("{scheme}://{HIDDEN}{rest}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};

    #[test]
    fn what_is_shown_is_a_settings_file_of_the_same_settings() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("em.toml");
        let mut sources = Sources {
            variables: [("EM_LIMITS__CPU".into(), "1500m".into())].into(),
            data_dir: Some("/data".into()),
            ..Sources::default()
        };
        let loaded = load(&sources).expect("loads");
        let shown = loaded.show();
        for line in [
            "# data folder: /data (flag --data-dir)",
            "[limits]",
            "# variable EM_LIMITS__CPU",
            "keys_file = \"/data/api-key\"",
        ] {
            assert!(shown.contains(line), "{line}: {shown}");
        }
        std::fs::write(&path, shown).expect("the file is written");
        sources.file = Some(path);
        sources.variables.clear();
        assert_eq!(load(&sources).expect("loads").settings, loaded.settings);
    }

    #[test]
    fn every_key_is_shown_with_its_origin() {
        let sources = Sources {
            data_dir: Some("/data".into()),
            ..Sources::default()
        };
        let shown = load(&sources).expect("loads").show();
        let lines = shown.lines().filter(|line| line.contains(" = "));
        let lines: Vec<_> = lines.collect();
        assert_eq!(lines.len(), crate::config::known_keys().len(), "{shown}");
        assert!(
            lines.iter().all(|line| line.contains(" # default")),
            "{shown}"
        );
    }

    #[test]
    fn secrets_are_hidden() {
        for (key, value, shown) in [
            ("secret", "hunter2", "(secret)"),
            ("client_secret", "hunter2", "(secret)"),
            (
                "url",
                "amqp://ada:hunter2@host:5672/v",
                "amqp://(secret)@host:5672/v",
            ),
            ("url", "https://host/a@b", "https://host/a@b"),
            ("keys_file", "/data/api-key", "/data/api-key"),
        ] {
            let value = redacted(key, &Value::String(value.to_owned()));
            assert_eq!(value.as_str(), Some(shown));
        }
    }
}
