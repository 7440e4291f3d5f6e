//! `/list_files_in_environment`: all names of a folder.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use shared::job::{Entry, EntryType, JobInput, JobResult};
use shared::octets::Octets;
use utoipa::ToSchema;

use crate::answer;
use crate::extract::{Call, JsonBody};
use crate::legacy::{Detail, environment_id, path, succeeded};
use crate::problem::Problem;
use crate::service::App;
use crate::wait::Patience;

/// Names that one job reads.
const PAGE: u32 = 10_000;

/// Which folder.
#[derive(Deserialize, ToSchema)]
pub(crate) struct ListFilesRequest {
    #[schema(required, nullable = false)]
    environment_id: Option<String>,
    /// Relative to `/app` or absolute; `.` where it is not given.
    path: Option<String>,
}

/// What is in a folder.
#[derive(Serialize, ToSchema)]
pub(crate) struct Files {
    files: Vec<File>,
}

/// One name in a folder.
#[derive(Serialize, ToSchema)]
pub(crate) struct File {
    name: String,
    /// `file`, `directory`, `link` or `unknown`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// In bytes.
    size: u64,
    /// Seconds since 1970.
    last_modified: i64,
}

/// Lists a folder.
#[utoipa::path(
    post, path = "/list_files_in_environment", tag = "original",
    request_body = ListFilesRequest,
    responses(
        (status = 200, description = "What is in it", body = Files),
        (status = 404, description = "There is no such folder or environment", body = Detail),
        (status = 409, description = "It is no folder, or the environment does not run", body = Detail),
        (status = 422, description = "A field cannot be taken", body = Detail),
        (status = 504, description = "It takes longer than this endpoint waits", body = Detail),
    )
)]
pub(crate) async fn list_files_in_environment(
    State(app): State<App>,
    call: Call,
    body: JsonBody<ListFilesRequest>,
) -> Result<Response, Problem> {
    let asked = body.value;
    let id = environment_id(asked.environment_id)?;
    let path = path(asked.path.or_else(|| Some(".".to_owned())))?;
    let patience = Patience::of(app.sync_wait());
    let (mut files, mut after) = (Vec::new(), Octets::default());
    loop {
        let input = JobInput::List {
            path: path.clone(),
            depth: 1,
            after,
            limit: PAGE,
        };
        // A read changes nothing, so a repetition reads again: an idempotency key adds nothing to that.
        let order = app.order(id.clone(), input);
        let job = succeeded(app.run(&call, order, patience.left()).await?)?;
        let Some(JobResult::Listed { entries, more, .. }) = &job.result else {
            return Err(Problem::internal());
        };
        files.extend(entries.iter().map(File::of));
        match entries.last() {
            Some(last) if *more => after = last.name.clone(),
            _ => {
                return Ok(answer::of_job(
                    job.id,
                    Json(Files { files }).into_response(),
                ));
            }
        }
    }
}

impl File {
    fn of(entry: &Entry) -> Self {
        let name = String::from_utf8_lossy(&entry.name.0);
        Self {
            name: name.strip_prefix("./").unwrap_or(&name).to_owned(),
            kind: match entry.kind {
                EntryType::File => "file",
                EntryType::Directory => "directory",
                EntryType::Symlink => "link",
                EntryType::Other => "unknown",
            },
            size: entry.size,
            last_modified: entry.modified_at.as_second(),
        }
    }
}
