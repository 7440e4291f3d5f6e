//! An environment as a plain value, and the only ways in which it changes.
//!
//! ```text
//!            create                 lease              done
//!   (none) ─────────▶ pending ─────────────▶ creating ──────▶ running ──┐ fault
//!      ▲                                       ▲  │ fault        │ stop  ▼
//!      │ create: a new life, a new uid         │  └──────────────┼──▶ failed
//!   deleted ◀── deleting ◀── delete            │ start           ▼       │
//!                  ▲   (from any but deleted)  ├──────────── stopping    │ start
//!                  │                           │                 ▼       │
//!                  └───────────────────────────┼──────────── stopped     │
//!                                              └─────────────────────────┘
//! ```
//!
//! A lifecycle job that fails, or is cancelled, leaves its environment `failed`, from where it can be deleted again.
//!
//! Invariants: `generation` rises by one with each accepted lifecycle job and never falls while the environment, or the
//! record of its deletion, is there; a deleted one keeps no variables, which may be secrets; what a lifecycle job does at
//! its end counts only while its generation is still the environment's (a later delete is not undone by an earlier
//! create); a running environment that is being killed says so until it has failed, another start of its PID 1 runs, or the
//! kill is called off, whatever else is seen of it meanwhile; `incarnation` and `container` are set while the phase is `running`, and kept while it is `stopping` or
//! `deleting`, since what runs in it has to be reached to be ended.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{
    EnvironmentId, EnvironmentRef, EnvironmentUid, Generation, Incarnation, JobId, TenantId,
};
use crate::resources::Resources;
use crate::secret::EnvVars;

/// What an environment may reach over the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Egress {
    /// Nothing at all.
    None,
    /// The internet, but no private, host or metadata address.
    Internet,
    /// The cluster it runs in.
    Cluster,
}

/// What the caller asked for, with the defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentSpec {
    /// The image: `host`, or a reference that the runtime knows.
    pub image: String,
    /// Variables of every command in it.
    #[serde(default)]
    pub env: EnvVars,
    /// The caller's own marks.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Limits.
    pub resources: Resources,
    /// Network.
    pub egress: Egress,
    /// Folder in which commands start, absolute; the volume where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Seconds after its creation when it is deleted with its volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
    /// Seconds without a job after which it is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout_seconds: Option<u64>,
}

/// Where an environment is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Its create job waits.
    Pending,
    /// It is being made or started.
    Creating,
    /// Commands run in it.
    Running,
    /// It is being stopped.
    Stopping,
    /// Only its volume is there.
    Stopped,
    /// It went wrong; the reason is beside it.
    Failed,
    /// It is being deleted.
    Deleting,
    /// Nothing of it is left.
    Deleted,
}

impl Phase {
    /// The phase as callers read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Creating => "creating",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Deleting => "deleting",
            Self::Deleted => "deleted",
        }
    }
}

/// Why an environment is as it is: a stable code and a sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Stable, in snake case.
    pub code: String,
    /// For people.
    pub message: String,
}

impl Reason {
    /// The code of an environment of whose node there is no word: it may be alive.
    pub const NODE_LOST: &'static str = "node_lost";

    /// The code of a running environment whose container is to be killed: others that lose it wait for what became of that.
    pub const BEING_KILLED: &'static str = "being_killed";

    /// A reason from its two parts. A very long message is cut off.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: crate::job::shortened(message.into()),
        }
    }
}

/// Where container and volume of an environment are found, on a runtime that others look into as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The cluster's namespace.
    pub namespace: String,
    /// The volume's name there.
    pub volume: String,
}

/// A lifecycle job's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lifecycle {
    /// Begins a life.
    Create,
    /// Starts a stopped or failed environment on its volume.
    Start,
    /// Ends all processes, keeps the volume.
    Stop,
    /// Removes everything.
    Delete,
}

/// What a lifecycle job did, or what a worker saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnvironmentEvent {
    /// A worker took the create job.
    Creating,
    /// PID 1 answers.
    Running {
        /// Which start of PID 1 it is.
        incarnation: Incarnation,
        /// The runtime's name of the container or pod.
        container: String,
        /// How often the runtime had started PID 1 again in that container.
        #[serde(default)]
        restarts: u32,
        /// Where container and volume are found.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        place: Option<Place>,
        /// Limits of the spec that the runtime cannot enforce here.
        limits_not_enforced: Vec<String>,
    },
    /// The container is gone, the volume is there.
    Stopped,
    /// Container and volume are gone.
    Deleted,
    /// The lifecycle job failed.
    Failed(Reason),
    /// A running environment's PID 1 went away.
    Fault {
        /// The start of PID 1 that is gone.
        incarnation: Incarnation,
        /// Why, as far as it is known.
        reason: Reason,
    },
    /// The runtime has started a running environment's PID 1 again by itself: it goes on as another start.
    Restarted {
        /// The start of PID 1 that is gone.
        incarnation: Incarnation,
        /// The one that runs now.
        next: Incarnation,
        /// How often the runtime has started PID 1 again in the same container.
        #[serde(default)]
        restarts: u32,
        /// Why the one before ended.
        reason: Reason,
    },
    /// What hinders or holds up the current phase.
    Note(Reason),
    /// What was noted of a running environment does not hold any more.
    Passed {
        /// The code of the reason.
        code: String,
    },
}

/// A lifecycle job that the environment's phase does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PhaseRefusal {
    /// Start needs a stopped or failed environment, stop a running one.
    #[error("the environment is {0}")]
    NotAllowed(&'static str),
    /// It is going or gone.
    #[error("the environment is {0}")]
    Gone(&'static str),
}

/// An event that does not fit the environment: too late, or of another incarnation. It changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the event came too late: the environment is {phase} in generation {generation}", generation = .generation.0)]
pub struct StaleEvent {
    /// The phase in which the environment is.
    pub phase: &'static str,
    /// Its generation.
    pub generation: Generation,
}

/// What a caller changes of an environment that is there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EnvironmentPatch {
    /// Marks that are set, and those that go.
    pub labels: BTreeMap<String, Option<String>>,
    /// A new lifetime, or none any more.
    pub ttl_seconds: Option<Option<u64>>,
    /// A new idle time, or none any more.
    pub idle_timeout_seconds: Option<Option<u64>>,
}

/// Marks that a record may have.
pub const MAX_LABELS: usize = 64;

/// A change that an environment does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatchRefusal {
    /// It is going or gone.
    #[error("the environment is {0}")]
    Gone(&'static str),
    /// It would have too many marks.
    #[error("the environment would have more than {MAX_LABELS} labels")]
    TooManyLabels,
}

/// One environment in one life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// The owner.
    pub tenant: TenantId,
    /// The caller's name for it.
    pub id: EnvironmentId,
    /// This life.
    pub uid: EnvironmentUid,
    /// Number of lifecycle jobs accepted, over all lives.
    pub generation: Generation,
    /// The job that began this life.
    pub created_by: JobId,
    /// What was asked for.
    pub spec: EnvironmentSpec,
    /// Where it is.
    pub phase: Phase,
    /// Why, where there is something to say.
    pub reason: Option<Reason>,
    /// Since when it is in this phase.
    pub since: Timestamp,
    /// When this life was accepted.
    pub created_at: Timestamp,
    /// The start of PID 1 that runs, while `running` and until it is stopped.
    pub incarnation: Option<Incarnation>,
    /// The runtime's name of the container or pod, while `running` and until it is stopped.
    pub container: Option<String>,
    /// How often the runtime had started PID 1 again in that container, when the incarnation was noted.
    #[serde(default)]
    pub restarts: u32,
    /// Where container and volume are found, once it has run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// Limits of the spec that the runtime cannot enforce here.
    #[serde(default)]
    pub limits_not_enforced: Vec<String>,
}

impl Environment {
    /// Accepts a create job where no environment of that name lives; `former` is the deleted record, if there is one.
    pub fn create(
        at: EnvironmentRef,
        former: Option<&Self>,
        spec: EnvironmentSpec,
        job: JobId,
        now: Timestamp,
    ) -> Result<Self, PhaseRefusal> {
        let generation = match former {
            None => Generation::default(),
            Some(former) if former.phase == Phase::Deleted => former.generation,
            Some(former) if former.phase == Phase::Deleting => {
                return Err(PhaseRefusal::Gone(former.phase.as_str()));
            }
            Some(former) => return Err(PhaseRefusal::NotAllowed(former.phase.as_str())),
        };
        Ok(Self {
            tenant: at.tenant,
            id: at.environment,
            uid: EnvironmentUid::of_create(&job),
            generation: generation.next(),
            created_by: job,
            spec,
            phase: Phase::Pending,
            reason: None,
            since: now,
            created_at: now,
            incarnation: None,
            container: None,
            restarts: 0,
            place: None,
            limits_not_enforced: Vec::new(),
        })
    }

    /// Accepts a start, stop or delete job: the environment as it is from the same commit on.
    pub fn accept(&self, job: Lifecycle, now: Timestamp) -> Result<Self, PhaseRefusal> {
        use Phase::{Creating, Deleted, Deleting, Failed, Pending, Running, Stopped, Stopping};
        let phase = match (job, self.phase) {
            (_, Deleted | Deleting) => return Err(PhaseRefusal::Gone(self.phase.as_str())),
            (Lifecycle::Delete, _) => Deleting,
            (Lifecycle::Stop, Running) => Stopping,
            (Lifecycle::Start, Stopped | Failed) => Creating,
            (Lifecycle::Create, _)
            | (Lifecycle::Stop, Pending | Creating | Stopping | Stopped | Failed)
            | (Lifecycle::Start, Pending | Creating | Running | Stopping) => {
                return Err(PhaseRefusal::NotAllowed(self.phase.as_str()));
            }
        };
        let mut next = self.in_phase(phase, None, now);
        next.generation = self.generation.next();
        // While it stops, the workers that end its jobs still have to reach its PID 1.
        if matches!(phase, Stopping | Deleting) {
            next.incarnation.clone_from(&self.incarnation);
            next.container.clone_from(&self.container);
        }
        Ok(next)
    }

    /// Applies what a lifecycle job of `generation` did, or what a worker saw.
    pub fn apply(
        &self,
        generation: Generation,
        event: &EnvironmentEvent,
        now: Timestamp,
    ) -> Result<Self, StaleEvent> {
        use EnvironmentEvent as Event;
        use Phase::{Creating, Deleted, Deleting, Failed, Pending, Running, Stopped, Stopping};
        let current = generation == self.generation;
        let next = match (event, self.phase) {
            (Event::Creating, Pending) if current => self.in_phase(Creating, None, now),
            (
                Event::Running {
                    incarnation,
                    container,
                    restarts,
                    place,
                    limits_not_enforced,
                },
                Creating,
            ) if current => {
                let mut next = self.in_phase(Running, None, now);
                next.incarnation = Some(incarnation.clone());
                next.container = Some(container.clone());
                next.restarts = *restarts;
                next.place.clone_from(place);
                next.limits_not_enforced.clone_from(limits_not_enforced);
                next
            }
            (Event::Stopped, Stopping) if current => self.in_phase(Stopped, None, now),
            (Event::Deleted, Deleting) if current => {
                let mut next = self.in_phase(Deleted, None, now);
                // They may be secrets, which must not outlive what they were given to.
                next.spec.env = EnvVars::default();
                next
            }
            (Event::Failed(reason), Pending | Creating | Stopping | Deleting) if current => {
                self.in_phase(Failed, Some(reason.clone()), now)
            }
            (
                Event::Fault {
                    incarnation,
                    reason,
                },
                Running,
            ) if self.incarnation.as_ref() == Some(incarnation) => {
                self.in_phase(Failed, Some(reason.clone()), now)
            }
            (
                Event::Restarted {
                    incarnation,
                    next,
                    restarts,
                    reason,
                },
                Running,
            ) if self.incarnation.as_ref() == Some(incarnation) => Self {
                incarnation: Some(next.clone()),
                restarts: *restarts,
                reason: Some(reason.clone()),
                ..self.clone()
            },
            (Event::Note(reason), phase)
                if current
                    && phase != Deleted
                    && (!self.is_being_killed() || reason.code == Reason::BEING_KILLED) =>
            {
                Self {
                    reason: Some(reason.clone()),
                    ..self.clone()
                }
            }
            (Event::Passed { code }, Running)
                if current
                    && self
                        .reason
                        .as_ref()
                        .is_some_and(|reason| reason.code == *code) =>
            {
                Self {
                    reason: None,
                    ..self.clone()
                }
            }
            _ => {
                return Err(StaleEvent {
                    phase: self.phase.as_str(),
                    generation: self.generation,
                });
            }
        };
        Ok(next)
    }

    /// Whether somebody is about to kill its container, and what becomes of that is not known yet.
    pub fn is_being_killed(&self) -> bool {
        let code = self.reason.as_ref().map(|reason| reason.code.as_str());
        self.phase == Phase::Running && code == Some(Reason::BEING_KILLED)
    }

    /// The environment with a change that a caller asks for.
    pub fn patched(&self, patch: &EnvironmentPatch) -> Result<Self, PatchRefusal> {
        if matches!(self.phase, Phase::Deleting | Phase::Deleted) {
            return Err(PatchRefusal::Gone(self.phase.as_str()));
        }
        let mut changed = self.clone();
        for (name, value) in &patch.labels {
            match value {
                Some(value) => changed.spec.labels.insert(name.clone(), value.clone()),
                None => changed.spec.labels.remove(name),
            };
        }
        if changed.spec.labels.len() > MAX_LABELS {
            return Err(PatchRefusal::TooManyLabels);
        }
        if let Some(seconds) = patch.ttl_seconds {
            changed.spec.ttl_seconds = seconds;
        }
        if let Some(seconds) = patch.idle_timeout_seconds {
            changed.spec.idle_timeout_seconds = seconds;
        }
        Ok(changed)
    }

    /// When its lifetime is over, if it has one.
    pub fn expires_at(&self) -> Option<Timestamp> {
        let seconds = i64::try_from(self.spec.ttl_seconds?).unwrap_or(i64::MAX);
        let expires = self
            .created_at
            .checked_add(jiff::SignedDuration::from_secs(seconds));
        Some(expires.unwrap_or(Timestamp::MAX))
    }

    /// Where it is found.
    pub fn at(&self) -> EnvironmentRef {
        EnvironmentRef {
            tenant: self.tenant.clone(),
            environment: self.id.clone(),
        }
    }

    fn in_phase(&self, phase: Phase, reason: Option<Reason>, now: Timestamp) -> Self {
        Self {
            phase,
            reason,
            since: now,
            incarnation: None,
            container: None,
            ..self.clone()
        }
    }
}
