//! Where large bytes are.

use std::path::Path;
use std::sync::Arc;

use shared::config::{BlobKind, BlobSettings};
use shared::directory_blobs::DirectoryBlobs;
use shared::ports::Blobs;

use crate::failure::Failure;

/// Opens the blob store that `blobs.kind` names.
pub(crate) fn open(settings: &BlobSettings, data_dir: &Path) -> Result<Arc<dyn Blobs>, Failure> {
    match settings.kind {
        BlobKind::Directory => {
            let folder = data_dir.join("blobs");
            let blobs = DirectoryBlobs::open(&folder).map_err(|error| {
                Failure::new(
                    format!("the folder {} cannot be used", folder.display()),
                    error,
                )
                .advise("see that the disk has room and the folder is this user's")
            })?;
            Ok(Arc::new(blobs))
        }
    }
}
