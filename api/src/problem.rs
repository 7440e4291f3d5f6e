//! The one place where errors become HTTP.
//!
//! A [`Problem`] travels as a response extension; the outermost layer ([`crate::layers::render`]) writes its body, since
//! only it knows the request id and whether the path is one of the original endpoints, whose errors are
//! `{"detail": …}`. What went wrong inside is logged, never told.

use std::borrow::Cow;

use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use shared::admission::Refusal;
use shared::environment::PatchRefusal;
use shared::ids::{InvalidId, JobId};
use shared::job::{Job, JobState};
use shared::ports::{BlobError, ListError, PatchError, StdinError, StoreError, SubmitError};
use shared::stdin::StdinRefusal;
use utoipa::ToSchema;

/// The header that names the job of an original endpoint or a file route.
pub(crate) const X_JOB_ID: HeaderName = HeaderName::from_static("x-job-id");

/// Seconds after which a caller may ask again when a backend is down.
const RETRY_SECONDS: u64 = 2;

/// Why a request was not done.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) code: Cow<'static, str>,
    pub(crate) detail: String,
    pub(crate) errors: Vec<FieldError>,
    pub(crate) job: Option<JobId>,
}

/// One field that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct FieldError {
    /// Which field, as a path such as `resources.cpu`; empty where it is the body as a whole.
    pub(crate) field: String,
    /// What is wrong with it.
    pub(crate) message: String,
}

/// An error as RFC 9457 writes it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody {
    /// A URI of the code.
    #[serde(rename = "type")]
    kind: String,
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What went wrong with this request.
    detail: String,
    /// Stable, in snake case, for programs.
    code: String,
    /// The request's id, as in `X-Request-Id`.
    request_id: String,
    /// Of a 422: the fields that cannot be taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    errors: Option<Vec<FieldError>>,
    /// The job whose end this is, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    job: Option<JobId>,
}

impl Problem {
    /// An error with a status, a stable code and a sentence.
    pub(crate) fn new(
        status: StatusCode,
        code: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            status,
            code: code.into(),
            detail: detail.into(),
            errors: Vec::new(),
            job: None,
        }
    }

    /// The body is not JSON, or did not come whole.
    pub(crate) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", detail)
    }

    /// No key, or one that opens nothing.
    pub(crate) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "send the service's key as `Authorization: Bearer KEY`",
        )
    }

    /// There is no such thing, or it is another tenant's.
    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// One field cannot be taken.
    pub(crate) fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::invalid_fields(vec![FieldError {
            field: field.into(),
            message: message.into(),
        }])
    }

    /// Some fields cannot be taken.
    pub(crate) fn invalid_fields(errors: Vec<FieldError>) -> Self {
        let detail = errors
            .iter()
            .map(|error| match error.field.as_str() {
                "" => error.message.clone(),
                field => format!("{field}: {}", error.message),
            })
            .collect::<Vec<_>>()
            .join("; ");
        Self {
            errors,
            ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail)
        }
    }

    /// More bytes than the service takes.
    pub(crate) fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
    }

    /// A backend is down.
    pub(crate) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail)
    }

    /// A bug of this service.
    pub(crate) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the service failed; its log has the request id",
        )
    }

    /// The end of a job that did not succeed, where the call itself is answered with it.
    pub(crate) fn of_end(job: &Job) -> Self {
        let (code, detail) = match &job.error {
            Some(error) => (error.code.clone(), error.message.clone()),
            None => (
                job.state.as_str().to_owned(),
                "the job did not succeed".to_owned(),
            ),
        };
        let status = match job.state {
            JobState::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            JobState::Lost => StatusCode::SERVICE_UNAVAILABLE,
            JobState::Cancelled if code != "environment_deleted" => StatusCode::CONFLICT,
            _ => status_of(&code),
        };
        Self {
            job: Some(job.id),
            ..Self::new(status, code, detail)
        }
    }

    /// The body for everybody but the clients of the original endpoints.
    pub(crate) fn body(&self, request_id: &str) -> ProblemBody {
        ProblemBody {
            kind: format!("urn:environment-manager:problem:{}", self.code),
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: self.detail.clone(),
            code: self.code.clone().into_owned(),
            request_id: request_id.to_owned(),
            errors: (!self.errors.is_empty()).then(|| self.errors.clone()),
            job: self.job,
        }
    }
}

/// The HTTP status of a job's `error.code`. What is not listed is no fault of the caller's.
fn status_of(code: &str) -> StatusCode {
    match code {
        "file_not_found" => StatusCode::NOT_FOUND,
        "permission_denied" | "read_only" => StatusCode::FORBIDDEN,
        "not_a_directory"
        | "is_a_directory"
        | "not_a_regular_file"
        | "directory_not_empty"
        | "already_exists"
        | "changed_while_read"
        | "interrupted"
        | "environment_stopped"
        | "environment_failed"
        | "environment_killed"
        | "environment_restarted" => StatusCode::CONFLICT,
        "environment_deleted" => StatusCode::GONE,
        "range_not_satisfiable" => StatusCode::RANGE_NOT_SATISFIABLE,
        "name_too_long"
        | "invalid_path"
        | "other_file_system"
        | "archive_refused"
        | "too_many_links"
        | "file_refused"
        | "invalid_destination"
        | "command_not_found"
        | "not_executable"
        | "workdir_not_found"
        | "user_not_found"
        | "start_failed"
        | "image_not_found" => StatusCode::UNPROCESSABLE_ENTITY,
        "too_large" => StatusCode::PAYLOAD_TOO_LARGE,
        "no_space" | "no_space_for_image" => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        let headers = response.headers_mut();
        match self.status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_SECONDS));
            }
            _ => {}
        }
        if let Some(job) = self.job.and_then(|job| job.to_string().parse().ok()) {
            headers.insert(X_JOB_ID, job);
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store failed");
        match error {
            StoreError::Unknown(_) => Self::unavailable(
                "the store did not answer in time: the request may or may not have been accepted",
            ),
            StoreError::Unavailable(_) | StoreError::Fenced | StoreError::Corrupt(_) => {
                Self::unavailable("the store is unavailable")
            }
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.to_string();
        match refusal {
            Refusal::NoSuchEnvironment(_) => Self::not_found(detail),
            Refusal::DifferentSpec => Self::new(StatusCode::CONFLICT, "environment_exists", detail),
            Refusal::NotAllowed { phase, .. } => {
                Self::new(StatusCode::CONFLICT, format!("environment_{phase}"), detail)
            }
            Refusal::Gone(phase) => {
                Self::new(StatusCode::GONE, format!("environment_{phase}"), detail)
            }
            Refusal::Overtaken => Self::new(StatusCode::CONFLICT, "environment_changed", detail),
        }
    }
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Refused(refusal) => refusal.into(),
            SubmitError::KeyReused => Self {
                code: "idempotency_key_reused".into(),
                ..Self::invalid("Idempotency-Key", error.to_string())
            },
            SubmitError::Store(error) => error.into(),
        }
    }
}

impl From<PatchError> for Problem {
    fn from(error: PatchError) -> Self {
        match error {
            PatchError::NoSuchEnvironment => Self::not_found(error.to_string()),
            PatchError::Refused(PatchRefusal::Gone(phase)) => Self::new(
                StatusCode::GONE,
                format!("environment_{phase}"),
                error.to_string(),
            ),
            PatchError::Refused(PatchRefusal::TooManyLabels) => {
                Self::invalid("labels", error.to_string())
            }
            PatchError::Store(error) => error.into(),
        }
    }
}

impl From<StdinError> for Problem {
    fn from(error: StdinError) -> Self {
        let detail = error.to_string();
        let code = match error {
            StdinError::NoSuchJob => return Self::not_found(detail),
            StdinError::Store(error) => return error.into(),
            StdinError::Refused(StdinRefusal::Full) => {
                return Self::new(StatusCode::TOO_MANY_REQUESTS, "stdin_full", detail);
            }
            StdinError::Refused(StdinRefusal::NotOpen) => "stdin_not_open",
            StdinError::Refused(StdinRefusal::Ended) => "job_ended",
            StdinError::Refused(StdinRefusal::Closed) => "stdin_closed",
            StdinError::Refused(StdinRefusal::Gap(_)) => "stdin_gap",
        };
        Self::new(StatusCode::CONFLICT, code, detail)
    }
}

impl From<ListError> for Problem {
    fn from(error: ListError) -> Self {
        match error {
            ListError::BadToken => Self::invalid("page_token", error.to_string()),
            ListError::Store(error) => error.into(),
        }
    }
}

impl From<BlobError> for Problem {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::BadName(message) => Self::invalid("destination", message),
            BlobError::Source(why) => {
                Self::malformed(format!("the content did not come whole: {why}"))
            }
            BlobError::NotFound(_) => Self::not_found("the content is gone"),
            BlobError::Damaged(_) | BlobError::Unavailable(_) => {
                tracing::error!(%error, "the blob store failed");
                Self::unavailable("the blob store is unavailable")
            }
        }
    }
}

impl From<(&'static str, InvalidId)> for Problem {
    fn from((field, error): (&'static str, InvalidId)) -> Self {
        Self::invalid(field, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use shared::ports::BlobName;

    use super::*;

    fn of<E: Into<Problem>>(error: E) -> (u16, String) {
        let problem = error.into();
        (problem.status.as_u16(), problem.code.into_owned())
    }

    fn is(status: u16, code: &str) -> (u16, String) {
        (status, code.to_owned())
    }

    #[test]
    fn a_backend_that_is_down_is_503_and_tells_nothing() {
        let secret = || "/secret/place".to_owned();
        for problem in [
            Problem::from(StoreError::Unavailable(secret())),
            Problem::from(StoreError::Unknown(secret())),
            Problem::from(StoreError::Corrupt(secret())),
            Problem::from(StoreError::Fenced),
            Problem::from(BlobError::Unavailable(secret())),
        ] {
            assert!(!problem.detail.contains("secret"));
            let response = problem.into_response();
            assert_eq!(response.status(), 503);
            assert!(response.headers().contains_key(RETRY_AFTER));
        }
    }

    #[test]
    fn refusals_say_what_hinders() {
        let not_allowed = Refusal::NotAllowed {
            phase: "stopped",
            reason: String::new(),
        };
        assert_eq!(of(not_allowed), is(409, "environment_stopped"));
        assert_eq!(of(Refusal::DifferentSpec), is(409, "environment_exists"));
        assert_eq!(
            of(Refusal::Gone("deleting")),
            is(410, "environment_deleting")
        );
        assert_eq!(
            of(Refusal::NoSuchEnvironment(String::new())),
            is(404, "not_found")
        );
        assert_eq!(
            of(SubmitError::KeyReused),
            is(422, "idempotency_key_reused")
        );
        assert_eq!(of(ListError::BadToken), is(422, "invalid"));
        assert_eq!(of(BlobError::Source(String::new())), is(400, "malformed"));
        let name = BlobName::new("bucket", "object").expect("a name");
        assert_eq!(of(BlobError::Damaged(name)), is(503, "unavailable"));
    }

    #[test]
    fn the_codes_of_file_jobs_have_their_statuses() {
        for (code, status) in [
            ("file_not_found", 404),
            ("permission_denied", 403),
            ("not_a_directory", 409),
            ("changed_while_read", 409),
            ("environment_deleted", 410),
            ("range_not_satisfiable", 416),
            ("invalid_path", 422),
            ("no_space", 507),
            ("too_large", 413),
            ("no_space_for_image", 507),
            ("runner_misbehaved", 503),
        ] {
            assert_eq!(status_of(code).as_u16(), status, "{code}");
        }
    }
}
