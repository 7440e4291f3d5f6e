//! What a handler takes from a request, each checked, each refusal naming the field.

mod body;
mod call;
mod id;
mod params;
mod prefer;

pub(crate) use body::{JsonBody, OptionalBody};
pub(crate) use call::Call;
pub(crate) use id::{ArtifactPath, EnvironmentPath, JobPath};
pub(crate) use params::{NoParams, Params};
pub(crate) use prefer::Prefer;
