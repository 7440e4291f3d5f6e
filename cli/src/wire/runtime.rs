//! What holds environments.

use std::path::Path;
use std::sync::Arc;

use shared::clock::Clock;
use shared::config::{RuntimeKind, RuntimeSettings, Settings};
use shared::ids::InstanceId;
use shared::ports::Runtime;
use worker::runtime::kubernetes::access::{self, AccessSettings};
use worker::runtime::kubernetes::{KubernetesRuntime, KubernetesSettings};
use worker::runtime::oci::{OciRuntime, OciSettings};

use crate::failure::Failure;

/// Opens the runtime that `runtime.kind` names. It holds what carries this instance's id and leaves all else alone.
pub(crate) async fn open(
    settings: &Settings,
    data_dir: &Path,
    instance: InstanceId,
    clock: Arc<dyn Clock>,
) -> Result<Arc<dyn Runtime>, Failure> {
    match settings.runtime.kind {
        RuntimeKind::Oci => {
            let oci = oci_settings(settings, data_dir);
            let runtime =
                OciRuntime::open(&oci, instance, clock).map_err(|error| Failure::told(&error))?;
            Ok(Arc::new(runtime))
        }
        RuntimeKind::Kubernetes => {
            let access = access::connect(&access_settings(&settings.runtime))
                .await
                .map_err(|error| Failure::told(&error))?;
            let kubernetes = KubernetesSettings::new(&settings.runtime);
            Ok(Arc::new(KubernetesRuntime::open(
                access, kubernetes, instance, clock,
            )))
        }
    }
}

/// Where the cluster is.
fn access_settings(settings: &RuntimeSettings) -> AccessSettings {
    let filled = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    AccessSettings {
        endpoint: filled(&settings.cluster_endpoint),
        authority: filled(&settings.cluster_ca),
        kubeconfig: filled(&settings.kubeconfig).map(Into::into),
    }
}

/// What the OCI adapter needs to know.
pub(crate) fn oci_settings(settings: &Settings, data_dir: &Path) -> OciSettings {
    OciSettings {
        binary: settings.runtime.binary.clone(),
        images: settings.images.clone(),
        network: settings.network.clone(),
        ..OciSettings::new(data_dir.join("environments"))
    }
}
