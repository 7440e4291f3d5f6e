//! What every part stands on.

use std::path::PathBuf;

use tests::cluster::Cluster;
use tokio::sync::OnceCell;

use crate::asked::Asked;

/// Rounds that are not counted: caches fill, connections are made.
pub const WARM_UP: usize = 3;

/// The program under measurement, how thorough to be, and the cluster.
pub struct Ground {
    pub program: PathBuf,
    quick: bool,
    cluster: OnceCell<Cluster>,
}

impl Ground {
    pub fn new(asked: &Asked) -> Self {
        Self {
            program: asked.program.clone(),
            quick: asked.quick,
            cluster: OnceCell::new(),
        }
    }

    /// How often something is measured.
    pub fn rounds(&self, thorough: usize) -> usize {
        if self.quick {
            thorough.min(3)
        } else {
            thorough
        }
    }

    /// How much of something there is.
    pub fn amount(&self, thorough: usize) -> usize {
        if self.quick { thorough / 16 } else { thorough }
    }

    /// Bytes of large content: a GiB.
    pub fn large(&self) -> u64 {
        self.amount(1 << 30) as u64
    }

    /// The cluster that `KUBECONFIG` names, else one that goes with this.
    pub async fn cluster(&self) -> &Cluster {
        let found = async || match std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty()) {
            Some(_) => Cluster::shared().await,
            None => Cluster::own().await,
        };
        self.cluster.get_or_init(found).await
    }
}
