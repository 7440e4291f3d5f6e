//! The original endpoints, kept to the byte that their clients read.

/// The paths whose errors are `{"detail": …}`.
const ORIGINAL: [&str; 8] = [
    "/create_environment",
    "/delete_environment",
    "/exec_in_environment",
    "/upload_to_environment",
    "/download_from_environment",
    "/list_files_in_environment",
    "/upload_to_cloud_and_index",
    "/status",
];

/// Whether a path is one of the original endpoints.
pub(crate) fn is_original(path: &str) -> bool {
    ORIGINAL.contains(&path)
}
