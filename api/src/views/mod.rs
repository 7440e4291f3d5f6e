//! What callers read: explicit shapes, built from the records, never the records themselves.
//!
//! Invariant: no value of a variable, no standard input and no file content is in any of them; `env` is names only.

mod artifact;
mod environment;
mod file;
mod input;
mod job;
mod output;
mod page;
mod preview;
mod quoted;
mod result;
mod text;

pub(crate) use artifact::ArtifactView;
pub(crate) use environment::EnvironmentView;
pub(crate) use file::{
    ListingView, MadeFolderView, MovedView, RemovedView, UnpackedView, UploadedView, name_in_token,
};
pub(crate) use job::JobView;
pub(crate) use output::{OutputEvent, OutputWindow, Wanted, Window};
pub(crate) use page::{ArtifactPage, EnvironmentPage, JobPage};
pub(crate) use text::BASE64;
