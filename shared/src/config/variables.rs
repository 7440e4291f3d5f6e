//! The settings in environment variables: `EM_SECTION__KEY`, and the names that existing deployments set.
//!
//! An empty variable counts as not set. `EM_…` wins over an existing deployment's name for the same key.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;

use super::fault::{Fault, Origin};
use super::layers::Layers;
use super::{ServerSettings, keys};

/// Names in `EM_` that are no settings: the data folder, and what clients, the build and tests read.
const NOT_SETTINGS: [&str; 6] = [
    "EM_DATA_DIR",
    "EM_URL",
    "EM_API_KEY",
    "EM_RUNNER_BIN",
    "EM_FAILPOINT",
    "EM_BIN",
];

/// A name that existing deployments set, and the key that it stands for.
struct Established {
    name: &'static str,
    key: &'static str,
    /// Makes the key's text of the variable's and of the text that was written for the key before.
    read: fn(&str, Option<&str>) -> Result<String, String>,
}

/// Every such name that has a meaning here.
const ESTABLISHED: [Established; 8] = [
    Established {
        name: "PORT",
        key: "server.listen",
        read: with_port,
    },
    Established {
        name: "AGENT_NAME",
        key: "registry.agent_name",
        read: as_it_is,
    },
    Established {
        name: "KUBECONFIG",
        key: "runtime.kubeconfig",
        read: as_it_is,
    },
    Established {
        name: "GKE_CLUSTER_ENDPOINT",
        key: "runtime.cluster_endpoint",
        read: as_it_is,
    },
    // Where it is set, environments are on that cluster.
    Established {
        name: "GKE_CLUSTER_ENDPOINT",
        key: "runtime.kind",
        read: |_, _| Ok("kubernetes".to_owned()),
    },
    Established {
        name: "GKE_SSL_CA_CERT",
        key: "runtime.cluster_ca",
        read: as_it_is,
    },
    Established {
        name: "KUBERNETES_NAMESPACE",
        key: "runtime.namespace",
        read: as_it_is,
    },
    Established {
        name: "DEV_ENV_BASE_IMAGE",
        key: "runtime.default_image",
        read: as_it_is,
    },
];

fn as_it_is(text: &str, _before: Option<&str>) -> Result<String, String> {
    Ok(text.to_owned())
}

/// The address that was written before, with another port.
fn with_port(text: &str, before: Option<&str>) -> Result<String, String> {
    let port = text
        .parse()
        .map_err(|_| format!("{text:?} is no port: write 0 to 65535"))?;
    let mut listen: SocketAddr = before
        .and_then(|before| before.parse().ok())
        .unwrap_or(ServerSettings::default().listen);
    listen.set_port(port);
    Ok(listen.to_string())
}

/// Adds what the variables say.
pub(super) fn read(variables: &BTreeMap<OsString, OsString>, layers: &mut Layers) {
    for Established { name, key, read } in ESTABLISHED {
        let Some(text) = variables.get(OsStr::new(name)) else {
            continue;
        };
        let origin = Origin::Variable(name.to_owned());
        put(key, text, &origin, layers, |text, layers| {
            read(text, layers.text(key))
        });
    }
    for (name, text) in variables {
        let name = name.to_string_lossy();
        let Some(rest) = name.strip_prefix("EM_") else {
            continue;
        };
        if NOT_SETTINGS.contains(&&*name) {
            continue;
        }
        let key = rest.to_ascii_lowercase().replacen("__", ".", 1);
        let origin = Origin::Variable(name.to_string());
        if keys::known().contains_key(&key) && name == variable_of(&key) {
            put(&key, text, &origin, layers, |text, _| Ok(text.to_owned()));
        } else {
            let message = keys::unknown(&key, variable_of);
            layers.faults.push(Fault::of_source(&origin, message));
        }
    }
}

/// The variable that sets a key.
fn variable_of(key: &str) -> String {
    format!("EM_{}", key.replacen('.', "__", 1).to_ascii_uppercase())
}

fn put(
    key: &str,
    text: &OsStr,
    origin: &Origin,
    layers: &mut Layers,
    read: impl Fn(&str, &Layers) -> Result<String, String>,
) {
    if text.is_empty() {
        return;
    }
    let read = text
        .to_str()
        .ok_or_else(|| "its value is not UTF-8".to_owned())
        .and_then(|text| read(text, layers));
    match read {
        Ok(text) => layers.put_text(key, &text, origin.clone()),
        Err(message) => layers.fault(key, origin, message),
    }
}
