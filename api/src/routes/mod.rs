//! One file per resource.

pub(crate) mod archive;
pub(crate) mod artifacts;
pub(crate) mod content;
pub(crate) mod docs;
pub(crate) mod environments;
pub(crate) mod exec;
pub(crate) mod files;
pub(crate) mod jobs;
pub(crate) mod output;
pub(crate) mod requests;
pub(crate) mod service;
pub(crate) mod stdin;
pub(crate) mod stream;
