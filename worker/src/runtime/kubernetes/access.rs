//! The way to the API server: where it is, who this is, and two clients.
//!
//! ```text
//!   endpoint + authority ──▶ Google credentials, asked on every request   (GKE from outside)
//!   kubeconfig named ──────▶ what it says
//!   neither ───────────────▶ the pod's own service account, else ~/.kube/config
//! ```
//!
//! `plain` is for objects and watches and repeats what the server was too busy for. `exec` opens streams: it never
//! repeats, since a command could begin twice. Neither waits to fill packets (Nagle's algorithm costs 44 ms a round
//! trip on a stream), and both give up a connection whose other end is gone.

mod google;
mod place;
mod stack;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;

pub use google::{TokenError, Tokens};

/// How long the API server may take to begin an answer.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Where the API server is and how to prove who this is. Empty: as found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessSettings {
    /// A GKE control plane's address, with or without `https://`. Google credentials go there.
    pub endpoint: Option<String>,
    /// The certificate authority of `endpoint`: PEM, or base64 of PEM.
    pub authority: Option<String>,
    /// Kubeconfig files, merged, in the form of the variable `KUBECONFIG`.
    pub kubeconfig: Option<PathBuf>,
}

/// The clients of one cluster.
#[derive(Clone)]
pub struct Access {
    /// For objects and watches.
    pub plain: Client,
    /// For `pods/exec`.
    pub exec: Client,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A setting means nothing.
    #[error("{key}: {why}")]
    Setting {
        /// Its name.
        key: &'static str,
        /// What is wrong with it, and what helps.
        why: String,
    },
    /// There is no cluster to be found.
    #[error(
        "no cluster: {0}; run in a pod with a service account, or set KUBECONFIG, or GKE_CLUSTER_ENDPOINT with GKE_SSL_CA_CERT"
    )]
    NoCluster(String),
    /// Google's credentials cannot be had.
    #[error(
        "no Google credentials: {0}; set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account's key"
    )]
    NoCredentials(String),
    /// The cluster's settings make no client.
    #[error("the cluster's settings cannot be used: {0}")]
    Client(String),
}

/// Makes the clients. Nothing is sent yet.
pub async fn connect(settings: &AccessSettings) -> Result<Access, AccessError> {
    match &settings.endpoint {
        Some(endpoint) => {
            connect_with_tokens(endpoint, settings.authority.as_deref(), &google::tokens()?)
        }
        None => clients(&place::found(settings.kubeconfig.as_deref()).await?, None),
    }
}

/// Makes the clients of an endpoint where bearer tokens prove who this is; the source is asked on every request.
pub fn connect_with_tokens(
    endpoint: &str,
    authority: Option<&str>,
    tokens: &Arc<dyn Tokens>,
) -> Result<Access, AccessError> {
    clients(&place::at_endpoint(endpoint, authority)?, Some(tokens))
}

fn clients(config: &kube::Config, tokens: Option<&Arc<dyn Tokens>>) -> Result<Access, AccessError> {
    let client = |retry| {
        stack::client(config, tokens, retry).map_err(|error| AccessError::Client(error.to_string()))
    };
    Ok(Access {
        plain: client(true)?,
        exec: client(false)?,
    })
}

#[cfg(test)]
mod tests;
