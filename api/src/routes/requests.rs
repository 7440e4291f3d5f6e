//! Pieces of request bodies that say what is wrong with them in the caller's words, and never repeat a variable's value.

use std::collections::BTreeMap;

use serde::Deserialize;
use shared::octets::Octets;
use shared::resources::{ByteSize, Cpu};
use shared::secret::{EnvVars, Secret};
use utoipa::ToSchema;

/// A body without fields.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

/// Variables by name.
#[derive(Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be an object whose values are texts")]
pub(crate) enum Env {
    Vars(BTreeMap<String, String>),
}

impl From<Env> for EnvVars {
    fn from(Env::Vars(vars): Env) -> Self {
        Self(
            vars.into_iter()
                .map(|(name, value)| (name, Secret::new(value)))
                .collect(),
        )
    }
}

/// A script for `sh -c`, or a program with its arguments.
#[derive(Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be a text or a list of texts")]
#[schema(as = CommandRequest)]
pub(crate) enum CommandIn {
    Script(String),
    Argv(Vec<String>),
}

/// Bytes: a text, or `{"base64": "…"}` where they are not UTF-8.
#[derive(Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be a text or {\"base64\": \"…\"}")]
#[schema(as = Bytes)]
pub(crate) enum OctetsIn {
    Text(String),
    Marked(Base64In),
}

/// Bytes in standard base64 with padding.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Base64)]
pub(crate) struct Base64In {
    base64: String,
}

impl OctetsIn {
    /// The bytes; nothing where the base64 cannot be read.
    pub(crate) fn octets(self) -> Result<Octets, &'static str> {
        match self {
            Self::Text(text) => Ok(text.into()),
            Self::Marked(marked) => {
                Octets::from_base64(&marked.base64).ok_or("is not standard base64 with padding")
            }
        }
    }
}

/// An amount as Kubernetes writes it: a number, or a text such as `500m` or `512Mi`.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "must be a number or a text such as 500m or 512Mi"
)]
pub(crate) enum Amount {
    Number(f64),
    Text(String),
}

impl Amount {
    /// As an amount of processors.
    pub(crate) fn cpu(&self) -> Result<Cpu, String> {
        Cpu::parse(&self.text()).map_err(|error| error.to_string())
    }

    /// As an amount of bytes.
    pub(crate) fn bytes(&self) -> Result<ByteSize, String> {
        ByteSize::parse(&self.text()).map_err(|error| error.to_string())
    }

    fn text(&self) -> String {
        match self {
            // Three decimals: thousandths of a processor are the least that can be had.
            Self::Number(number) => format!("{number:.3}"),
            Self::Text(text) => text.clone(),
        }
    }
}
