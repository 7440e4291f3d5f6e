//! Writes one object of a directory blob store over and over, and tells of each write: to be killed in the middle.

use std::io::Write as _;
use std::path::PathBuf;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use shared::directory_blobs::DirectoryBlobs;
use shared::ports::{BlobError, BlobName, Blobs as _};

/// Pieces of an object.
const PIECES: usize = 48;

/// Bytes of a piece.
const PIECE: usize = 64 * 1024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args_os()
        .nth(1)
        .map(PathBuf::from)
        .ok_or("usage: blob_writer DIR")?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let blobs = DirectoryBlobs::open(&dir)?;
        let name = BlobName::new("bucket", "deep/object")?;
        for version in 0u64.. {
            writeln!(std::io::stdout(), "begun {version}")?;
            let fill = u8::try_from(version % 251)?;
            let pieces =
                (0..PIECES).map(move |_| Ok::<_, BlobError>(Bytes::from(vec![fill; PIECE])));
            blobs.put(&name, stream::iter(pieces).boxed()).await?;
            writeln!(std::io::stdout(), "done {version}")?;
        }
        Ok(())
    })
}
