//! Large content, and how it goes through the service over HTTP.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt as _;
use tempfile::TempDir;

use crate::Failure;
use crate::report::timed;
use crate::service::Service;

/// Most that the service may grow by while it moves a GiB, in MiB.
pub const GROWTH: f64 = 32.0;

/// The path of the content in environments, below their home.
pub const NAME: &str = "large";

const PIECE: usize = 1 << 20;

/// A file of large content.
pub struct Large {
    folder: TempDir,
    pub size: u64,
}

impl Large {
    /// Text that does not compress to nothing.
    pub fn new(size: u64) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let block: Vec<u8> = (0..PIECE as u64)
            .map(|at| b'a' + (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 59) as u8 % 26)
            .collect();
        let mut file = std::fs::File::create(folder.path().join(NAME))?;
        for _ in 0..size / block.len() as u64 {
            std::io::Write::write_all(&mut file, &block)?;
        }
        // What is still to be written would be written in somebody's measured time.
        file.sync_all()?;
        Ok(Self { folder, size })
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self) -> PathBuf {
        self.folder().join(NAME)
    }

    /// How the page names its size.
    pub fn named(&self) -> String {
        match self.size {
            0x4000_0000 => "1 GiB".to_owned(),
            size => format!("{} MiB", size >> 20),
        }
    }

    /// Its bytes in pieces.
    pub fn pieces(
        &self,
    ) -> Result<impl futures::Stream<Item = std::io::Result<Vec<u8>>> + Send + use<>, Failure> {
        let mut file = std::fs::File::open(self.path())?;
        let pieces = std::iter::from_fn(move || {
            let mut piece = vec![0; PIECE];
            match file.read(&mut piece) {
                Ok(0) => None,
                read => Some(read.map(|read| {
                    piece.truncate(read);
                    piece
                })),
            }
        });
        Ok(futures::stream::iter(pieces))
    }
}

/// Whether all of it came.
pub fn expect(got: u64, size: u64) -> Result<(), Failure> {
    if got == size {
        Ok(())
    } else {
        Err(format!("{got} bytes of {size}").into())
    }
}

/// Puts the content into an environment.
pub async fn upload(
    service: &Service,
    environment: &str,
    large: &Large,
) -> Result<Duration, Failure> {
    timed(async {
        let url = format!("/v1/environments/{environment}/files/content?path={NAME}");
        let request = service.request(reqwest::Method::PUT, &url);
        let request = request.header("Prefer", "wait=300");
        let request = request.body(reqwest::Body::wrap_stream(large.pieces()?));
        let response = request.send().await?;
        // 202 would be a job that goes on.
        if response.status() == reqwest::StatusCode::OK {
            Ok(())
        } else {
            Err(format!("upload: {}: {}", response.status(), response.text().await?).into())
        }
    })
    .await
}

/// Reads the content from an environment.
pub async fn download(
    service: &Service,
    environment: &str,
    large: &Large,
) -> Result<Duration, Failure> {
    let url = format!("/v1/environments/{environment}/files/content?path={NAME}");
    timed(async { expect(size_of(service, &url).await?, large.size) }).await
}

/// Reads an answer's body to its end; how many bytes it has.
pub async fn size_of(service: &Service, url: &str) -> Result<u64, Failure> {
    let response = service.request(reqwest::Method::GET, url).send().await?;
    let mut bytes = response.error_for_status()?.bytes_stream();
    let mut size = 0;
    while let Some(piece) = bytes.next().await {
        size += piece?.len() as u64;
    }
    Ok(size)
}
