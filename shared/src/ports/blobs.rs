//! The port to large bytes: staged file content and published artifacts.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

/// Bytes as they come. An error ends them.
pub type BlobStream = BoxStream<'static, Result<Bytes, BlobError>>;

/// Why the blob store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// There is no such object.
    #[error("there is no object {0}")]
    NotFound(BlobName),
    /// The name cannot be used.
    #[error("{0}")]
    BadName(String),
    /// What was read is not what was written.
    #[error("object {0} is damaged: its checksum differs")]
    Damaged(BlobName),
    /// The bytes to be written ended with an error: nothing was written.
    #[error("the content ended early: {0}")]
    Source(String),
    /// It cannot work now: down or out of room.
    #[error("the blob store is unavailable: {0}")]
    Unavailable(String),
}

/// An object's place: a bucket and a name in it.
///
/// Names are `/`-separated parts, none empty, `.` or `..`, none longer than 255 bytes, 1024 bytes in all, without
/// control characters; buckets are 1 to 222 of `a-z`, `0-9`, `.`, `_` and `-`, beginning with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobName {
    bucket: String,
    object: String,
}

impl BlobName {
    /// Takes a bucket and a name that keep the rule.
    pub fn new(bucket: impl Into<String>, object: impl Into<String>) -> Result<Self, BlobError> {
        let (bucket, object) = (bucket.into(), object.into());
        let bucket_ok = (1..=222).contains(&bucket.len())
            && bucket
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
            && bucket.as_bytes()[0].is_ascii_alphanumeric();
        if !bucket_ok {
            return Err(BlobError::BadName(format!(
                "bucket {bucket:?} must be 1 to 222 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit"
            )));
        }
        let part_ok = |part: &str| !matches!(part, "" | "." | "..") && part.len() <= 255;
        if object.len() > 1024
            || object.chars().any(char::is_control)
            || !object.split('/').all(part_ok)
        {
            return Err(BlobError::BadName(
                "an object's name must be 1 to 1024 bytes of parts of at most 255 bytes, separated by /, none of them empty, \
                 . or .., without control characters"
                    .to_owned(),
            ));
        }
        Ok(Self { bucket, object })
    }

    /// The bucket.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The name in the bucket.
    pub fn object(&self) -> &str {
        &self.object
    }
}

impl fmt::Display for BlobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.bucket, self.object)
    }
}

/// What is known of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobInfo {
    /// In bytes.
    pub size: u64,
    /// SHA-256 of the content, in hexadecimal.
    pub sha256: String,
}

/// An object and its age.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobEntry {
    /// Its place.
    pub name: BlobName,
    /// Seconds since it was written.
    pub age_seconds: u64,
}

/// Large bytes.
#[async_trait]
pub trait Blobs: Send + Sync {
    /// Writes an object, whole or not at all; one of that name is replaced.
    async fn put(&self, name: &BlobName, content: BlobStream) -> Result<BlobInfo, BlobError>;

    /// Reads an object from the first byte. Its checksum is checked on the way: a damaged one ends with
    /// [`BlobError::Damaged`] before its end.
    async fn get(&self, name: &BlobName) -> Result<(BlobInfo, BlobStream), BlobError>;

    /// What is known of an object.
    async fn stat(&self, name: &BlobName) -> Result<BlobInfo, BlobError>;

    /// Removes an object. None there is success.
    async fn delete(&self, name: &BlobName) -> Result<(), BlobError>;

    /// All objects of a bucket whose name begins with the prefix, and what was left of interrupted writes goes.
    async fn list(&self, bucket: &str, prefix: &str) -> Result<Vec<BlobEntry>, BlobError>;

    /// Where others read an object: `file://…`, `gs://…`.
    fn uri(&self, name: &BlobName) -> String;

    /// Whether the store can work now.
    async fn check(&self) -> Result<(), BlobError>;
}
