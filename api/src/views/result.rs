//! What a job produced, as callers read it.

use serde::Serialize;
use shared::ids::ArtifactId;
use shared::job::{ExecResult, JobResult};
use utoipa::ToSchema;

use crate::views::file::{
    ListingView, MadeFolderView, MovedView, RemovedView, UnpackedView, UploadedView,
};
use crate::views::input::size_of;
use crate::views::preview::trim;
use crate::views::text::Texts;

/// What a job produced; the fields depend on its kind. Lifecycle jobs produce nothing: their environment tells.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = JobResult)]
pub(crate) enum ResultView {
    Exec(ExecResultView),
    Published(PublishedView),
    Downloaded(DownloadedView),
    Listed(ListingView),
    Uploaded(UploadedView),
    Removed(RemovedView),
    Moved(MovedView),
    MadeFolder(MadeFolderView),
    Unpacked(UnpackedView),
    Packed(PackedView),
}

/// How a command ended, and the head and tail of what it wrote: up to 64 KiB each. All of it is under
/// `/v1/jobs/{id}/output`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ExecResult)]
pub(crate) struct ExecResultView {
    /// Its exit code, if it exited.
    exit_code: Option<u32>,
    /// The number of the signal that ended it, if one did.
    signal: Option<u32>,
    stdout: String,
    stderr: String,
    /// `base64` where either stream is not UTF-8: then both are base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    encoding: Option<&'static str>,
    /// Bytes that are missing in `stdout` after its first `stdout_omitted_at` bytes.
    #[serde(skip_serializing_if = "is_zero")]
    stdout_omitted_bytes: u64,
    /// Bytes of `stdout` before the missing ones; there only where some are missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    stdout_omitted_at: Option<u64>,
    /// Bytes that are missing in `stderr` after its first `stderr_omitted_at` bytes.
    #[serde(skip_serializing_if = "is_zero")]
    stderr_omitted_bytes: u64,
    /// Bytes of `stderr` before the missing ones; there only where some are missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    stderr_omitted_at: Option<u64>,
    duration_ms: u64,
    /// After a cancel or a timeout: whether it is certain that nothing of it is left.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    confirmed: Option<bool>,
}

/// A published file.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Published)]
pub(crate) struct PublishedView {
    #[schema(value_type = String)]
    artifact_id: ArtifactId,
    /// Where its bytes are.
    uri: String,
    size: u64,
    /// In hexadecimal.
    sha256: String,
    /// What could not be done beside it.
    warnings: Vec<String>,
}

/// A file that was read; its bytes were the answer of the call that asked.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Downloaded)]
pub(crate) struct DownloadedView {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    encoding: Option<&'static str>,
    /// Bytes that were read.
    length: u64,
    etag: String,
}

/// A folder or file that was read as an archive; its bytes were the answer of the call that asked.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Packed)]
pub(crate) struct PackedView {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    encoding: Option<&'static str>,
    /// Bytes of the archive.
    length: u64,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "the shape that serde asks for"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl ResultView {
    pub(crate) fn of(result: &JobResult) -> Option<Self> {
        Some(match result {
            JobResult::Lifecycle {} => return None,
            JobResult::Exec(exec) => Self::Exec(ExecResultView::of(exec)),
            JobResult::Uploaded { path, size, sha256 } => {
                Self::Uploaded(UploadedView::of(path, *size, sha256))
            }
            JobResult::Downloaded { head, content } => {
                let texts = Texts::of([&head.path]);
                Self::Downloaded(DownloadedView {
                    path: texts.show(&head.path),
                    encoding: texts.encoding(),
                    length: size_of(content),
                    etag: head.etag.clone(),
                })
            }
            JobResult::Listed {
                path,
                entries,
                more,
            } => Self::Listed(ListingView::of(path, entries, *more)),
            JobResult::Removed { path, removed } => Self::Removed(RemovedView::of(path, *removed)),
            JobResult::Moved { from, to } => Self::Moved(MovedView::of(from, to)),
            JobResult::MadeFolder { path, made } => {
                Self::MadeFolder(MadeFolderView::of(path, *made))
            }
            JobResult::Packed { path, content } => {
                let texts = Texts::of([path]);
                Self::Packed(PackedView {
                    path: texts.show(path),
                    encoding: texts.encoding(),
                    length: size_of(content),
                })
            }
            JobResult::Unpacked {
                path,
                entries,
                size,
            } => Self::Unpacked(UnpackedView::of(path, *entries, *size)),
            JobResult::Published {
                artifact_id,
                uri,
                size,
                sha256,
                warnings,
            } => Self::Published(PublishedView {
                artifact_id: artifact_id.clone(),
                uri: uri.clone(),
                size: *size,
                sha256: sha256.clone(),
                warnings: warnings.clone(),
            }),
        })
    }
}

impl ExecResultView {
    fn of(exec: &ExecResult) -> Self {
        let (stdout, stderr) = (trim(&exec.stdout), trim(&exec.stderr));
        let texts = Texts::of([&stdout.data, &stderr.data]);
        Self {
            exit_code: exec.exit_code,
            signal: exec.signal,
            stdout: texts.show(&stdout.data),
            stderr: texts.show(&stderr.data),
            encoding: texts.encoding(),
            stdout_omitted_bytes: stdout.omitted,
            stdout_omitted_at: (stdout.omitted > 0).then_some(stdout.omitted_at),
            stderr_omitted_bytes: stderr.omitted,
            stderr_omitted_at: (stderr.omitted > 0).then_some(stderr.omitted_at),
            duration_ms: exec.duration_ms,
            confirmed: exec.confirmed,
        }
    }
}
