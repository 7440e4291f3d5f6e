//! The ports that the settings ask for, each variant matched once, in one constructor.

mod blobs;
mod queue;
pub(crate) mod runtime;
mod store;

use std::path::Path;
use std::sync::Arc;

use shared::clock::{Clock, SystemClock};
use shared::config::Settings;
use shared::ports::{Blobs, Queue, Runtime, Store};

use crate::failure::Failure;

/// The four ports, opened.
#[derive(Clone)]
pub(crate) struct Ports {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) blobs: Arc<dyn Blobs>,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Ports {
    /// Opens them in a data folder whose lock the caller holds.
    pub(crate) async fn open(settings: &Settings, data_dir: &Path) -> Result<Self, Failure> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let store = store::open(&settings.store, data_dir, clock.as_ref())?;
        let instance = store
            .instance()
            .await
            .map_err(|error| Failure::new("the store cannot be read", error))?;
        Ok(Self {
            queue: queue::open(&settings.queue, &store)?,
            blobs: blobs::open(&settings.blobs, data_dir)?,
            runtime: runtime::open(settings, data_dir, instance, Arc::clone(&clock)).await?,
            store,
            clock,
        })
    }
}
