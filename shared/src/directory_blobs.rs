//! Large bytes in a folder of this machine.
//!
//! ```text
//!   <dir>/<bucket>/<object>            the plain bytes, as `file://` names them
//!   <dir>/.sums/<bucket>/<hash>        the checksum of the object whose name has that hash, as `sha256sum -c` reads it
//!   <dir>/.sums/<bucket>/<hash>.next   the checksum of an object that is about to take its place
//!   <dir>/.tmp/                        content that is being written, each file locked by its writer
//!   <dir>/.locks/                      64 lock files; an object's name says which one is its own
//!
//!   put:  write .tmp ▶ fsync ▶ lock ▶ .next, fsync ▶ rename into place, fsync ▶ .next becomes the checksum ▶ unlock
//! ```
//!
//! Invariants: an object's place holds whole content or none; its content fits its checksum or, after a crash inside the
//! lock, the one in `.next`: whoever finds a `.next` reads the content, keeps the one that fits and drops the other. A
//! file in `.tmp` that nobody has locked belongs to no living writer and goes. No symbolic link is ever followed below
//! `<dir>`. Folders are 0700, files 0600. All I/O happens on blocking threads.
//!
//! Since names are paths, an object `a` and an object `a/b` cannot both be there: the second is refused as a bad name.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, stream};

use crate::clock::{Clock, SystemClock};
use crate::ports::{BlobEntry, BlobError, BlobInfo, BlobName, BlobStream, Blobs};

mod folder;
mod list;
mod read;
mod sums;
mod temp;
mod vault;
mod write;

use vault::Vault;

/// Bytes that are collected before they go to a blocking thread.
const BATCH_BYTES: usize = 1 << 20;

/// Objects in a folder.
pub struct DirectoryBlobs {
    vault: Arc<Vault>,
    clock: Arc<dyn Clock>,
}

impl DirectoryBlobs {
    /// Opens a folder, made if it is not there, and removes what interrupted writes left in it. It blocks: call it
    /// before the service starts.
    pub fn open(dir: &Path) -> Result<Self, BlobError> {
        let vault = Vault::open(dir).map_err(|error| unavailable(&error))?;
        vault.temp.sweep().map_err(|error| unavailable(&error))?;
        Ok(Self {
            vault: Arc::new(vault),
            clock: Arc::new(SystemClock),
        })
    }

    /// Does something with the folder on a blocking thread.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Vault) -> Result<T, BlobError> + Send + 'static,
    ) -> Result<T, BlobError> {
        let vault = Arc::clone(&self.vault);
        off_thread(move || work(&vault)).await
    }
}

#[async_trait]
impl Blobs for DirectoryBlobs {
    async fn put(&self, name: &BlobName, mut content: BlobStream) -> Result<BlobInfo, BlobError> {
        let mut writer = self
            .blocking(|vault| vault.begin().map_err(|error| unavailable(&error)))
            .await?;
        loop {
            let (batch, ended) = next_batch(&mut content).await?;
            writer = off_thread(move || writer.write(&batch)).await?;
            if ended {
                break;
            }
        }
        let name = name.clone();
        self.blocking(move |vault| vault.commit(&name, writer))
            .await
    }

    async fn get(&self, name: &BlobName) -> Result<(BlobInfo, BlobStream), BlobError> {
        let wanted = name.clone();
        let reader = self.blocking(move |vault| vault.read(&wanted)).await?;
        let info = reader.info().clone();
        let pieces = stream::try_unfold(reader, |reader| off_thread(move || reader.next()));
        Ok((info, pieces.boxed()))
    }

    async fn stat(&self, name: &BlobName) -> Result<BlobInfo, BlobError> {
        let name = name.clone();
        self.blocking(move |vault| Ok(vault.read(&name)?.info().clone()))
            .await
    }

    async fn delete(&self, name: &BlobName) -> Result<(), BlobError> {
        let name = name.clone();
        self.blocking(move |vault| vault.delete(&name)).await
    }

    async fn list(&self, bucket: &str, prefix: &str) -> Result<Vec<BlobEntry>, BlobError> {
        let now = self.clock.now().as_second();
        // A bucket's name is checked by making an object's name of it.
        let bucket = BlobName::new(bucket, "any")?.bucket().to_owned();
        let prefix = prefix.to_owned();
        self.blocking(move |vault| {
            vault
                .list(&bucket, &prefix, now)
                .map_err(|error| unavailable(&error))
        })
        .await
    }

    fn uri(&self, name: &BlobName) -> String {
        self.vault.uri(name)
    }

    async fn check(&self) -> Result<(), BlobError> {
        self.blocking(|vault| vault.begin().map(drop).map_err(|error| unavailable(&error)))
            .await
    }
}

/// Collects pieces up to [`BATCH_BYTES`]; true with the last ones.
async fn next_batch(content: &mut BlobStream) -> Result<(Vec<Bytes>, bool), BlobError> {
    let (mut batch, mut size) = (Vec::new(), 0);
    while size < BATCH_BYTES {
        match content.next().await {
            None => return Ok((batch, true)),
            Some(Ok(piece)) => {
                size += piece.len();
                batch.push(piece);
            }
            Some(Err(error @ BlobError::Source(_))) => return Err(error),
            Some(Err(error)) => return Err(BlobError::Source(error.to_string())),
        }
    }
    Ok((batch, false))
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(BlobError::Unavailable(error.to_string())))
}

fn unavailable(error: &rustix::io::Errno) -> BlobError {
    BlobError::Unavailable(error.to_string())
}
