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
    let Some(container) = &environment.container else {
        return Ok(None);
    };
    let restarted = context
        .runtime
        .restarted(&environment.uid, container, environment.restarts)
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
