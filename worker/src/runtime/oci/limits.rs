//! What an environment may use, in the kernel's units.
//!
//! ```text
//!  whole      the spec's limits and PID 1's allowance     set by the OCI runtime
//!   ├─ init       PID 1 and the supervisors of jobs        what the commands cannot take
//!   └─ commands   the spec's limits                        set by this adapter
//! ```
//!
//! Commands that use up all that is theirs leave PID 1 the allowance, so that it can always end them.

use shared::resources::Resources;

/// Length of the period that processor time is counted in, in microseconds.
pub(super) const PERIOD: u64 = 100_000;
/// The least processor time in a period that the kernel takes, in microseconds.
const LEAST_QUOTA: u64 = 1_000;

/// Memory beyond the commands', in bytes: several times of what PID 1 takes, since a job needs a supervisor.
const MORE_MEMORY: u64 = 64 << 20;
/// Processes and threads beyond the commands': a supervisor for each of many jobs, and PID 1's threads.
const MORE_PIDS: u64 = 2_048;
/// Processor time beyond the commands', in microseconds of each period.
const MORE_QUOTA: u64 = PERIOD / 4;

/// Three limits of one cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Memory with swap, in bytes.
    pub(super) memory: u64,
    /// Processes and threads.
    pub(super) pids: u64,
    /// Processor time in each [`PERIOD`], in microseconds.
    pub(super) quota: u64,
}

impl Limits {
    /// Those of all commands together.
    pub(super) fn of_commands(resources: &Resources) -> Self {
        Self {
            memory: resources.memory.0,
            pids: resources.pids.into(),
            quota: resources
                .cpu
                .millis
                .saturating_mul(PERIOD / 1000)
                .max(LEAST_QUOTA),
        }
    }

    /// Those of the whole environment.
    pub(super) fn with_allowance(self) -> Self {
        Self {
            memory: self.memory.saturating_add(MORE_MEMORY),
            pids: self.pids.saturating_add(MORE_PIDS),
            quota: self.quota.saturating_add(MORE_QUOTA),
        }
    }
}
