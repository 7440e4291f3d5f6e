//! The real program with its environments on a cluster.

use std::path::Path;

use super::{Namespace, SMALL_IMAGE};
use crate::program::{DataFolder, Program};

/// Starts the program with its environments in a namespace, which it reaches by a kubeconfig, and with more variables.
/// Environments that name no image get the small one.
pub async fn serve(namespace: &Namespace, kubeconfig: &Path, more: &[(&str, &str)]) -> Program {
    let kubeconfig = kubeconfig.to_str().expect("UTF-8");
    let mut variables = vec![
        ("KUBECONFIG", kubeconfig),
        ("EM_RUNTIME__KIND", "kubernetes"),
        ("EM_RUNTIME__NAMESPACE", namespace.name()),
        ("EM_RUNTIME__DEFAULT_IMAGE", SMALL_IMAGE),
    ];
    variables.extend_from_slice(more);
    Program::start_on(DataFolder::new(), &variables).await
}
