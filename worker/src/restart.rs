//! A PID 1 that the runtime has started again by itself, in the container that is there: a new incarnation that still has
//! what the one before kept.
//!
//! Whoever meets it first notes it in the environment, which goes on as it is. Jobs of the incarnation that is gone are
//! ended by what its records say; those that had not begun are handed back, to begin in the new one.

use shared::environment::{Environment, EnvironmentEvent, Reason};
use shared::ids::{Generation, Incarnation};
use shared::ports::Restart;

use crate::context::Context;
use crate::links::Link;

/// Notes the new incarnation, and answers why the one before ended. Nothing if it is not the same container that was
/// started again: then nothing of the one before is kept. An error says why that is not known yet.
pub(crate) async fn noted(
    context: &Context,
    environment: &Environment,
    generation: Generation,
    gone: &Incarnation,
    link: &Link,
) -> Result<Option<Reason>, String> {
    let (Some(container), Some(before)) = (
        &environment.container,
        restarts_before(&Known::of(environment), generation, gone),
    ) else {
        return Ok(None);
    };
    let restarted = context
        .runtime
        .restarted(&environment.uid, container, before)
        .await;
    let (reason, restarts) = match restarted.map_err(|error| error.to_string())? {
        Restart::Same { reason, restarts } => (reason, restarts),
        Restart::Another => return Ok(None),
        Restart::Unknown => return Err("the runtime does not know of a new start yet".to_owned()),
    };
    tracing::warn!(environment = %environment.id, reason = reason.code, "an environment's PID 1 was started again");
    let event = EnvironmentEvent::Restarted {
        incarnation: gone.clone(),
        next: link.incarnation.clone(),
        restarts,
        reason: reason.clone(),
    };
    let effects = context
        .store
        .environment_event(&environment.at(), generation, event, context.clock.now())
        .await
        .map_err(|error| error.to_string())?;
    context.publish(effects).await;
    Ok(Some(reason))
}

/// What a record says of the start that it knows.
struct Known<'a> {
    incarnation: Option<&'a Incarnation>,
    generation: Generation,
    restarts: u32,
}

impl<'a> Known<'a> {
    fn of(environment: &'a Environment) -> Self {
        Self {
            incarnation: environment.incarnation.as_ref(),
            generation: environment.generation,
            restarts: environment.restarts,
        }
    }
}

/// How often PID 1 had been started again in its container when an incarnation of a generation ran there. None if the
/// environment is in a later start: then nothing of that incarnation is kept.
fn restarts_before(known: &Known<'_>, generation: Generation, gone: &Incarnation) -> Option<u32> {
    match known.incarnation {
        // Within a generation only such a restart changes it: somebody else was faster, and the count is of the new start.
        Some(other) if other != gone => {
            (known.generation == generation).then(|| known.restarts.saturating_sub(1))
        }
        _ => Some(known.restarts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incarnation(digit: &str) -> Incarnation {
        digit.repeat(32).parse().expect("an incarnation")
    }

    #[test]
    fn a_restart_that_was_noted_already_is_one_of_the_same_container_all_the_same() {
        let (gone, next) = (incarnation("a"), incarnation("b"));
        let generation = Generation::default();
        let before = |incarnation, generation_now, restarts| {
            let known = Known {
                incarnation,
                generation: generation_now,
                restarts,
            };
            restarts_before(&known, generation, &gone)
        };
        assert_eq!(before(Some(&gone), generation, 2), Some(2));
        assert_eq!(before(None, generation, 2), Some(2));
        // Noted by another job, or by the sweep, before this job was leased again.
        assert_eq!(before(Some(&next), generation, 3), Some(2));
        // Stopped and started since: another container.
        assert_eq!(before(Some(&next), generation.next(), 0), None);
    }
}
