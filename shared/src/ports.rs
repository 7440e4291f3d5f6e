//! The four seams, on one screen: what the domain asks of the world.
//!
//! Each port is a narrow trait with one error type, chosen once from the settings as an `Arc<dyn …>`, and has one
//! conformance suite in `tests/` that every adapter passes.
//!
//! | port | what it is | embedded | distributed |
//! |---|---|---|---|
//! | [`Store`] | the truth | SQLite | |
//! | [`Queue`] | a hint that a job waits | in-process | |
//! | [`Blobs`] | large bytes | a directory | |
//! | [`Runtime`] | environments | OCI runtime | Kubernetes |

mod blobs;
mod queue;
mod runtime;
mod store;

pub use blobs::{BlobEntry, BlobError, BlobInfo, BlobName, BlobStream, Blobs};
pub use queue::{Delivery, Queue, QueueError, Receipt};
pub use runtime::{
    Heard, Holding, Lane, Placement, Restart, RunnerIo, Runtime, RuntimeError, RuntimeOffer, Sight,
    Started, Warm,
};
pub use store::{
    Activity, Completion, Cutoffs, Effects, EnvironmentFilter, HeldJob, Idempotency, JobFilter,
    Label, LeaseAttempt, Leased, ListError, Page, PageRequest, PageToken, PatchError, RoleHolder,
    StdinError, Store, StoreCounts, StoreError, Submission, SubmitError, Submitted, Watch,
};
