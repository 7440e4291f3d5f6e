//! One executor per kind of job.

pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod download;
pub(crate) mod exec;
pub(crate) mod exhausted;
pub(crate) mod list;
pub(crate) mod mkdir;
pub(crate) mod moving;
pub(crate) mod pack;
pub(crate) mod publish;
pub(crate) mod remove;
pub(crate) mod start;
pub(crate) mod stop;
pub(crate) mod unpack;
pub(crate) mod upload;

mod bring_up;
mod files;
mod last_resort;
mod vacate;
