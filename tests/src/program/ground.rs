//! What a program's environments are held on: this machine, or a namespace of a cluster.
//!
//! A run with `TEST_RUNTIME=kubernetes` has every test of the program on a cluster whose node is this machine, and one with
//! `TEST_OCI_RUNTIME` on that OCI runtime.

use std::ffi::OsString;

use crate::cluster::{Cluster, DEBIAN_IMAGE, Namespace};

/// Where environments are.
pub(super) enum Ground {
    Machine,
    Cluster {
        namespace: Namespace,
        kubeconfig: OsString,
    },
}

impl Ground {
    /// What this run is on.
    pub(super) async fn of_this_run() -> Self {
        match std::env::var("TEST_RUNTIME").as_deref() {
            Ok("kubernetes") => {
                let cluster = Cluster::shared().await;
                Self::Cluster {
                    namespace: cluster.namespace().await,
                    kubeconfig: cluster.kubeconfig().into(),
                }
            }
            Ok("oci" | "") | Err(_) => Self::Machine,
            Ok(other) => panic!("TEST_RUNTIME is {other}: oci or kubernetes"),
        }
    }

    /// What tells the program.
    pub(super) fn variables(&self) -> Vec<(OsString, OsString)> {
        let Self::Cluster {
            namespace,
            kubeconfig,
        } = self
        else {
            let other = std::env::var_os("TEST_OCI_RUNTIME");
            return other
                .map(|binary| ("EM_RUNTIME__BINARY".into(), binary))
                .into_iter()
                .collect();
        };
        vec![
            ("EM_RUNTIME__KIND".into(), "kubernetes".into()),
            ("EM_RUNTIME__NAMESPACE".into(), namespace.name().into()),
            ("EM_RUNTIME__DEFAULT_IMAGE".into(), DEBIAN_IMAGE.into()),
            ("KUBECONFIG".into(), kubeconfig.clone()),
        ]
    }

    /// The namespace.
    pub(super) fn namespace(&self) -> Option<&Namespace> {
        match self {
            Self::Machine => None,
            Self::Cluster { namespace, .. } => Some(namespace),
        }
    }
}
