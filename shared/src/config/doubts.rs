//! What is likely to fail later, though nothing contradicts it.

use super::{Loaded, RuntimeKind};

/// What can be used, and yet is likely to fail later: a line each, with what mends it.
pub(super) fn of(loaded: &Loaded) -> Vec<String> {
    let runtime = &loaded.settings.runtime;
    let nameless = runtime.kind == RuntimeKind::Kubernetes && runtime.runner_image.is_empty();
    let runner = nameless.then(|| {
        format!(
            "runtime.runner_image is empty: every node must have the image environment-manager:{} already, or pull it from \
             where images without a registry come from; name an image that holds em-runner",
            env!("CARGO_PKG_VERSION")
        )
    });
    runner.into_iter().collect()
}
