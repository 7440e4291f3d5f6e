//! The worker's sign of life: one record, changed a few times per lease.

use std::sync::Arc;

use shared::ports::StoreError;
use tokio_util::sync::CancellationToken;

use crate::context::Context;

/// Heartbeats per lease: several may fail before the owner counts as gone.
const BEATS_PER_LEASE: u32 = 6;

/// The first heartbeat: before it no lease is taken. Where nobody else can use the store, all others are gone.
pub(crate) async fn begin(context: &Context) -> Result<(), StoreError> {
    let began = context.clock.monotonic();
    if context.store.exclusive() {
        for beat in context.store.beats().await? {
            context.store.retire(&beat.worker).await?;
        }
    }
    context.store.beat(&context.me).await?;
    context.renewed(began);
    Ok(())
}

/// Beats until `end`.
pub(crate) async fn keep(context: Arc<Context>, end: CancellationToken) {
    let mut ticks = tokio::time::interval(context.lease / BEATS_PER_LEASE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let began = context.clock.monotonic();
        match context.store.beat(&context.me).await {
            Ok(()) => context.renewed(began),
            Err(error) => tracing::warn!(%error, "the heartbeat failed"),
        }
    }
}
