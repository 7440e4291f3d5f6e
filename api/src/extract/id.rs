//! The one identifier that a path holds.

use std::str::FromStr;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use shared::ids::{ArtifactId, EnvironmentId, InvalidId, JobId};

use crate::problem::Problem;
use crate::service::App;

async fn parse<T>(parts: &mut Parts, field: &'static str) -> Result<T, Problem>
where
    T: FromStr<Err = InvalidId>,
{
    // What is not UTF-8 after decoding is no id either.
    let text = Path::<String>::from_request_parts(parts, &())
        .await
        .map(|Path(text)| text)
        .unwrap_or_default();
    text.parse()
        .map_err(|error: InvalidId| (field, error).into())
}

macro_rules! path_id {
    ($(#[$doc:meta])* $name:ident, $id:ident, $field:literal) => {
        $(#[$doc])*
        pub(crate) struct $name(pub(crate) $id);

        impl FromRequestParts<App> for $name {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
                parse(parts, $field).await.map(Self)
            }
        }
    };
}

path_id!(
    /// `{env}` of a path.
    EnvironmentPath, EnvironmentId, "environment"
);
path_id!(
    /// `{id}` of a path under `/v1/jobs`.
    JobPath, JobId, "job"
);
path_id!(
    /// `{id}` of a path under `/v1/artifacts`.
    ArtifactPath, ArtifactId, "artifact"
);
