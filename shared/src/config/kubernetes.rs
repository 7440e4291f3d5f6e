//! What only the runtime `kubernetes` is told, as one can write it in a variable: each value is one text.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What the pods may do, by the names of the cluster's own standards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PodSecurity {
    /// No privilege of any kind, user and group 1000.
    Restricted,
    /// Commands may be root of their container, for images that need it.
    Baseline,
}

/// A text that is no node selector or no list of tolerations.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidText(String);

/// Labels that a node must have: `disktype=ssd,zone=a`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeSelector(pub BTreeMap<String, String>);

/// Taints that are tolerated: `gpu=true:NoSchedule,spot`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tolerations(pub Vec<Toleration>);

/// One tolerated taint: `key`, `key=value`, each with or without `:effect`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toleration {
    /// The taint's key.
    pub key: String,
    /// Its value; any where there is none.
    pub value: Option<String>,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`; all where there is none.
    pub effect: Option<String>,
}

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

impl FromStr for NodeSelector {
    type Err = InvalidText;

    fn from_str(text: &str) -> Result<Self, InvalidText> {
        let labels = items(text).map(|item| match item.split_once('=') {
            Some((key, value)) if is_label_key(key) && is_label_value(value) => {
                Ok((key.to_owned(), value.to_owned()))
            }
            _ => Err(InvalidText(format!(
                "{item:?} is no label of a node: write key=value, more of them with commas between"
            ))),
        });
        labels.collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for Toleration {
    type Err = InvalidText;

    fn from_str(text: &str) -> Result<Self, InvalidText> {
        let invalid = || {
            InvalidText(format!(
                "{text:?} is no toleration: write key, key=value or key=value:effect, the effect one of {}",
                EFFECTS.join(", ")
            ))
        };
        let (taint, effect) = match text.split_once(':') {
            Some((taint, effect)) => (taint, Some(effect)),
            None => (text, None),
        };
        let (key, value) = match taint.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (taint, None),
        };
        let valid = is_label_key(key)
            && value.is_none_or(is_label_value)
            && effect.is_none_or(|effect| EFFECTS.contains(&effect));
        valid
            .then(|| Self {
                key: key.to_owned(),
                value: value.map(str::to_owned),
                effect: effect.map(str::to_owned),
            })
            .ok_or_else(invalid)
    }
}

impl FromStr for Tolerations {
    type Err = InvalidText;

    fn from_str(text: &str) -> Result<Self, InvalidText> {
        items(text)
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

/// `name` or `domain/name`.
fn is_label_key(key: &str) -> bool {
    let (domain, name) = match key.split_once('/') {
        Some((domain, name)) => (Some(domain), name),
        None => (None, key),
    };
    !name.is_empty()
        && is_label_value(name)
        && domain.is_none_or(|domain| {
            (1..=253).contains(&domain.len())
                && domain
                    .bytes()
                    .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-'))
        })
}

fn is_label_value(value: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let ends = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    value.len() <= 63
        && value.bytes().all(allowed)
        && ends(value.as_bytes().first())
        && ends(value.as_bytes().last())
}

impl fmt::Display for NodeSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        separated(
            f,
            self.0.iter().map(|(key, value)| format!("{key}={value}")),
        )
    }
}

impl fmt::Display for Tolerations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        separated(f, self.0.iter().map(ToString::to_string))
    }
}

impl fmt::Display for Toleration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(value) = &self.value {
            write!(f, "={value}")?;
        }
        match &self.effect {
            Some(effect) => write!(f, ":{effect}"),
            None => Ok(()),
        }
    }
}

fn separated(f: &mut fmt::Formatter<'_>, items: impl Iterator<Item = String>) -> fmt::Result {
    f.write_str(&items.collect::<Vec<_>>().join(","))
}

macro_rules! as_text {
    ($($name:ident),+) => {
        $(
            impl TryFrom<String> for $name {
                type Error = InvalidText;
                fn try_from(text: String) -> Result<Self, InvalidText> {
                    text.parse()
                }
            }

            impl From<$name> for String {
                fn from(value: $name) -> String {
                    value.to_string()
                }
            }
        )+
    };
}

as_text!(NodeSelector, Tolerations);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_written_again() {
        for text in ["", "disktype=ssd", "a.b/c=,zone=a_1"] {
            assert_eq!(
                text.parse::<NodeSelector>().map(|it| it.to_string()),
                Ok(text.to_owned())
            );
        }
        for text in ["", "spot", "gpu=true:NoSchedule,a.b/c:NoExecute,d=e"] {
            assert_eq!(
                text.parse::<Tolerations>().map(|it| it.to_string()),
                Ok(text.to_owned())
            );
        }
    }

    #[test]
    fn mistakes_are_named() {
        for text in ["ssd", "=a", "a=b c", "a=b,c", "a=-"] {
            assert!(text.parse::<NodeSelector>().is_err(), "{text}");
        }
        for text in ["=a", "a:Never", "a b", "a=b=c"] {
            assert!(text.parse::<Tolerations>().is_err(), "{text}");
        }
    }
}
