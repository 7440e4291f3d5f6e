//! What holds environments.

use std::path::Path;
use std::sync::Arc;

use shared::config::{RuntimeKind, RuntimeSettings};
use shared::ids::InstanceId;
use shared::ports::Runtime;
use worker::runtime::oci::{OciRuntime, OciSettings};

use crate::failure::Failure;

/// Opens the runtime that `runtime.kind` names. It holds what carries this instance's id and leaves all else alone.
pub(crate) fn open(
    settings: &RuntimeSettings,
    data_dir: &Path,
    instance: InstanceId,
) -> Result<Arc<dyn Runtime>, Failure> {
    match settings.kind {
        RuntimeKind::Oci => {
            let oci = OciSettings {
                binary: settings.binary.clone(),
                ..OciSettings::new(data_dir.join("environments"))
            };
            let runtime = OciRuntime::open(oci, instance).map_err(|error| {
                Failure::new("the OCI runtime cannot be used", error)
                    .advise("run as root, with runc installed (apt-get install runc), or name the program in runtime.binary")
            })?;
            Ok(Arc::new(runtime))
        }
    }
}
