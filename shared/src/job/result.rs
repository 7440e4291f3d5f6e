//! What jobs produce.

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::wanted::Verdict;
use crate::ids::ArtifactId;
use crate::octets::Octets;

/// Bytes of each stream that an exec's result carries; all of them are under the job's output.
pub const PREVIEW_BYTES: usize = 64 * 1024;

/// Content that travels in the job itself, or waits in the staging area of the blobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ByteContent {
    /// In the job: at most 256 KiB.
    Inline(Octets),
    /// In the blobs, under the job's own staging name.
    Staged {
        /// Bytes in all.
        size: u64,
        /// Objects that hold them: one of an upload, parts of 4 MiB of what is read.
        parts: u32,
    },
}

/// What a job produced, by kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum JobResult {
    /// Of create, start, stop, delete: the environment's record tells the rest.
    Lifecycle {},
    /// Of a command that was started.
    Exec(ExecResult),
    /// Of an upload.
    Uploaded {
        /// Absolute.
        path: Octets,
        /// In bytes.
        size: u64,
        /// Of the content, in hexadecimal.
        sha256: String,
    },
    /// Of a download.
    Downloaded {
        /// The file.
        head: DownloadHead,
        /// Its bytes, or where they are.
        content: ByteContent,
    },
    /// Of a list.
    Listed {
        /// Absolute.
        path: Octets,
        /// Sorted by name, in byte order.
        entries: Vec<Entry>,
        /// Whether there are names after the last one.
        more: bool,
    },
    /// Of a remove.
    Removed {
        /// Absolute.
        path: Octets,
        /// Files and folders.
        removed: u64,
    },
    /// Of a move.
    Moved {
        /// Absolute.
        from: Octets,
        /// Absolute.
        to: Octets,
    },
    /// Of a mkdir.
    MadeFolder {
        /// Absolute.
        path: Octets,
        /// Whether it was not there before.
        made: bool,
    },
    /// Of a pack.
    Packed {
        /// Absolute, links resolved.
        path: Octets,
        /// The archive, or where it is.
        content: ByteContent,
    },
    /// Of an unpack.
    Unpacked {
        /// Absolute.
        path: Octets,
        /// Entries of the archive.
        entries: u64,
        /// Bytes of the archive.
        size: u64,
    },
    /// Of a publish.
    Published {
        /// The artifact.
        artifact_id: ArtifactId,
        /// Where its bytes are.
        uri: String,
        /// In bytes.
        size: u64,
        /// Of the content, in hexadecimal.
        sha256: String,
        /// What could not be done beside it.
        #[serde(default)]
        warnings: Vec<String>,
    },
}

/// How a command ended, and the beginning and end of what it wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecResult {
    /// Its exit code, if it exited.
    pub exit_code: Option<u32>,
    /// The signal that ended it, if one did.
    pub signal: Option<u32>,
    /// Head and tail of standard output.
    pub stdout: Preview,
    /// Head and tail of standard error.
    pub stderr: Preview,
    /// By the runner's monotonic clock.
    pub duration_ms: u64,
    /// After a cancel or a timeout: whether it was confirmed that nothing of it is left.
    pub confirmed: Option<bool>,
}

/// Head and tail of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Preview {
    /// The bytes: `omitted` of them are missing at `omitted_at`.
    pub data: Octets,
    /// Where bytes are missing, as an offset in `data`.
    pub omitted_at: u64,
    /// How many are missing there.
    pub omitted: u64,
}

impl Preview {
    /// A preview of `total` bytes of which `head` are the first and `tail` the last ones. They may overlap.
    pub fn new(head: &[u8], tail: &[u8], total: u64) -> Self {
        if head.len() as u64 >= total {
            let data = head
                .get(..usize::try_from(total).unwrap_or(head.len()))
                .unwrap_or(head);
            return Self {
                data: Octets(Bytes::copy_from_slice(data)),
                omitted_at: total,
                omitted: 0,
            };
        }
        let after_head = usize::try_from(total - head.len() as u64).unwrap_or(usize::MAX);
        let tail = &tail[tail.len().saturating_sub(after_head)..];
        let data = [head, tail].concat();
        let omitted = total - data.len() as u64;
        Self {
            data: data.into(),
            omitted_at: head.len() as u64,
            omitted,
        }
    }
}

/// A file as it was when it was opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownloadHead {
    /// Absolute, links resolved.
    pub path: Octets,
    /// Of the whole file, in bytes.
    pub size: u64,
    /// What of it was asked for.
    #[serde(default)]
    pub verdict: Verdict,
    /// Where that begins.
    #[serde(default)]
    pub offset: u64,
    /// How much that is, in bytes.
    pub length: u64,
    /// Permission bits.
    pub mode: u32,
    /// When it was last changed.
    pub modified_at: Timestamp,
    /// Made of inode, time and size.
    pub etag: String,
}

/// One name in a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Relative to the listed folder.
    pub name: Octets,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: EntryType,
    /// In bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// When it was last changed.
    pub modified_at: Timestamp,
    /// Of a symlink: what it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Octets>,
}

/// What a name in a folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryType {
    /// A regular file.
    File,
    /// A folder.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A FIFO, socket or device.
    Other,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_preview_accounts_for_every_byte(all: Vec<u8>, head in 0usize..50, tail in 0usize..50) {
            let first = &all[..head.min(all.len())];
            let last = &all[all.len().saturating_sub(tail)..];
            let preview = Preview::new(first, last, all.len() as u64);
            let at = usize::try_from(preview.omitted_at).expect("small");
            prop_assert_eq!(preview.data.len() as u64 + preview.omitted, all.len() as u64);
            prop_assert_eq!(&preview.data.0[..at], &all[..at]);
            let rest = &preview.data.0[at..];
            prop_assert_eq!(rest, &all[all.len() - rest.len()..]);
        }
    }
}
