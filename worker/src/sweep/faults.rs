//! What is done about running environments whose PID 1 is not there, or is another than before.
//!
//! ```text
//!   no PID 1 ──▶ about to be started again ──▶ noted; after many starts in vain: killed ──▶ failed
//!            └──▶ ended, or gone ───────────────────────────────────────────────────────▶ failed
//!   started again ──▶ its new start is noted
//! ```
//!
//! One that is being killed is left to the job that has that done, for as long as that may take: it knows why.
//!
//! None of it is waited for by the sweep that sees it: see [`Tending`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shared::environment::{Environment, EnvironmentEvent, Reason};
use shared::ids::EnvironmentUid;
use shared::ports::{Holding, Lane, Sight};

use super::tending::Tending;
use super::{SweepError, happened, told};
use crate::context::Context;
use crate::links::LinkError;
use crate::restart;

/// Restarts of a PID 1 that was never seen to run since, after which it is not waited for any longer.
const RESTARTS_MOST: u32 = 3;

/// How long the job that has an environment killed may take to say so once it is gone.
const KILL_TIME: Duration = Duration::from_secs(90);

/// How long it is remembered since when an environment is gone that was being killed.
const REMEMBERED: Duration = Duration::from_mins(10);

/// What is known of such environments over the rounds.
#[derive(Clone)]
pub(super) struct Faults {
    context: Arc<Context>,
    /// Restarts of PID 1 that are noted in the environment.
    restarts: Arc<Mutex<HashMap<EnvironmentUid, u32>>>,
    /// Since when those are gone that were being killed.
    killed: Arc<Mutex<HashMap<EnvironmentUid, Instant>>>,
}

impl Faults {
    pub(super) fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            restarts: Arc::default(),
            killed: Arc::default(),
        }
    }

    /// Forgets what does not count any more, now that these are alive.
    pub(super) fn retain(&self, is_alive: impl Fn(&EnvironmentUid) -> bool) {
        self.restarts().retain(|uid, _| is_alive(uid));
        let now = self.context.clock.monotonic();
        self.killed().retain(|uid, since| {
            !is_alive(uid) && now.saturating_duration_since(*since) < REMEMBERED
        });
    }

    /// Whether the job that has an environment killed, which is gone now, may still say so.
    fn is_left_to_killer(&self, environment: &Environment) -> bool {
        if !environment.is_being_killed() {
            return false;
        }
        let now = self.context.clock.monotonic();
        let since = *self.killed().entry(environment.uid.clone()).or_insert(now);
        now.saturating_duration_since(since) < KILL_TIME
    }

    /// Lets a running environment fail of which nothing was seen alive, if that is so.
    pub(super) fn look_at_missing(&self, tending: &Tending, environment: &Environment) {
        let (faults, environment) = (self.clone(), environment.clone());
        tending.begin(&environment.uid.clone(), async move {
            told(faults.mark_fault(&environment).await);
        });
    }

    /// Notes the start of PID 1 that runs now, where that is not the one that is known.
    pub(super) fn look_at_restarts(
        &self,
        tending: &Tending,
        environment: &Environment,
        held: &Holding,
    ) {
        let restarts = held.restarts;
        if restarts == 0 || self.restarts().get(&environment.uid) == Some(&restarts) {
            return;
        }
        let (faults, environment) = (self.clone(), environment.clone());
        tending.begin(&environment.uid.clone(), async move {
            faults.mark_restart(&environment, restarts).await;
        });
    }

    async fn mark_fault(&self, environment: &Environment) -> Result<(), SweepError> {
        let context = &self.context;
        let reason = match context.runtime.inspect(&environment.uid).await? {
            Sight::Alive => return Ok(()),
            Sight::Starting { reason, restarts } => {
                if restarts < environment.restarts.saturating_add(RESTARTS_MOST) {
                    if environment.is_being_killed() {
                        return Ok(());
                    }
                    return match held_up(reason, environment.reason.as_ref()) {
                        Some(event) => happened(context, environment, event).await,
                        None => Ok(()),
                    };
                }
                // Nothing of it goes on by itself.
                let container = environment.container.as_deref();
                context.runtime.kill(&environment.uid, container).await?;
                reason.unwrap_or_else(|| {
                    Reason::new("exited", "the environment's PID 1 does not stay")
                })
            }
            Sight::Stopped { reason } => {
                reason.unwrap_or_else(|| Reason::new("exited", "the environment's PID 1 has ended"))
            }
            Sight::Absent => Reason::new("absent", "the environment's container is gone"),
        };
        if self.is_left_to_killer(environment) {
            return Ok(());
        }
        let Some(incarnation) = environment.incarnation.clone() else {
            return Ok(());
        };
        tracing::warn!(environment = %environment.id, reason = reason.code, "an environment went away");
        let fault = EnvironmentEvent::Fault {
            incarnation,
            reason,
        };
        happened(context, environment, fault).await
    }

    async fn mark_restart(&self, environment: &Environment, restarts: u32) {
        let uid = &environment.uid;
        let Some(incarnation) = &environment.incarnation else {
            return;
        };
        let context = &self.context;
        // A link that is kept is one to the start that is gone, and nobody may have noticed yet.
        context.links.forget_all(uid);
        let noted = match context.links.to(uid, incarnation, Lane::Control).await {
            Ok(_) => Ok(()),
            Err(LinkError::OtherIncarnation(link)) => {
                let generation = environment.generation;
                restart::noted(context, environment, generation, incarnation, &link)
                    .await
                    .and_then(|noted| noted.map(drop).ok_or("it is not running".to_owned()))
            }
            Err(error) => Err(error.to_string()),
        };
        match noted {
            Ok(()) => {
                self.restarts().insert(uid.clone(), restarts);
            }
            Err(why) => {
                tracing::debug!(%uid, why, "a restart is not noted yet");
            }
        }
    }

    fn killed(&self) -> MutexGuard<'_, HashMap<EnvironmentUid, Instant>> {
        self.killed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn restarts(&self) -> MutexGuard<'_, HashMap<EnvironmentUid, u32>> {
        self.restarts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is to be noted of a running environment whose PID 1 does not run now, and of which that is told already. It is
/// replaced when PID 1 is started again.
fn held_up(reason: Option<Reason>, told: Option<&Reason>) -> Option<EnvironmentEvent> {
    let news = reason.filter(|reason| told != Some(reason));
    news.map(EnvironmentEvent::Note)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_up_a_running_environment_is_noted_once() {
        let no_image = Reason::new("image_pull_failed", "no such host");
        let noted = held_up(Some(no_image.clone()), None);
        assert_eq!(noted, Some(EnvironmentEvent::Note(no_image.clone())));
        let crashed = Reason::new("exited", "PID 1 ended with exit code 1");
        assert!(held_up(Some(no_image.clone()), Some(&crashed)).is_some());
        assert_eq!(held_up(Some(no_image.clone()), Some(&no_image)), None);
        assert_eq!(held_up(None, Some(&no_image)), None);
    }
}
