//! A real runtime that refuses some of what it is asked, or never answers, as if its disk, its kernel or the way to it
//! failed.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use shared::ids::EnvironmentUid;
use shared::ports::{
    Holding, Lane, Placement, RunnerIo, Runtime, RuntimeError, RuntimeOffer, Sight, Started,
};
use worker::runtime::oci::OciRuntime;

/// What a runtime is asked about an environment that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// To end it.
    Stop,
    /// To remove it.
    Delete,
    /// To end it at once.
    Kill,
    /// What it sees of it.
    Inspect,
    /// What it sees of all; it names none.
    List,
    /// A connection to its PID 1.
    Dial,
}

type Refuses = dyn Fn(Asked, Option<&EnvironmentUid>) -> bool + Send + Sync;

/// A runtime with a rule of what it refuses, and one of what it never answers.
pub struct Refusing {
    inner: Arc<OciRuntime>,
    refuses: Box<Refuses>,
    hangs: Box<Refuses>,
}

impl Refusing {
    /// One that refuses as the unavailable do, where the rule says so.
    pub fn new(
        inner: Arc<OciRuntime>,
        refuses: impl Fn(Asked, Option<&EnvironmentUid>) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            inner,
            refuses: Box::new(refuses),
            hangs: Box::new(|_, _| false),
        }
    }

    /// One that never answers where the rule says so.
    pub fn hanging(
        inner: Arc<OciRuntime>,
        hangs: impl Fn(Asked, Option<&EnvironmentUid>) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            hangs: Box::new(hangs),
            ..Self::new(inner, |_, _| false)
        }
    }

    async fn ask(&self, asked: Asked, uid: Option<&EnvironmentUid>) -> Result<(), RuntimeError> {
        if (self.hangs)(asked, uid) {
            std::future::pending::<()>().await;
        }
        if (self.refuses)(asked, uid) {
            return Err(RuntimeError::Unavailable(format!("{asked:?} is refused")));
        }
        Ok(())
    }
}

#[async_trait]
impl Runtime for Refusing {
    fn offer(&self) -> RuntimeOffer {
        self.inner.offer()
    }

    async fn create(&self, placement: &Placement) -> Result<Started, RuntimeError> {
        self.inner.create(placement).await
    }

    async fn start(&self, placement: &Placement) -> Result<Started, RuntimeError> {
        self.inner.start(placement).await
    }

    async fn stop(&self, uid: &EnvironmentUid, grace: Duration) -> Result<(), RuntimeError> {
        self.ask(Asked::Stop, Some(uid)).await?;
        self.inner.stop(uid, grace).await
    }

    async fn delete(&self, uid: &EnvironmentUid) -> Result<(), RuntimeError> {
        self.ask(Asked::Delete, Some(uid)).await?;
        self.inner.delete(uid).await
    }

    async fn kill(
        &self,
        uid: &EnvironmentUid,
        container: Option<&str>,
    ) -> Result<(), RuntimeError> {
        self.ask(Asked::Kill, Some(uid)).await?;
        self.inner.kill(uid, container).await
    }

    async fn inspect(&self, uid: &EnvironmentUid) -> Result<Sight, RuntimeError> {
        self.ask(Asked::Inspect, Some(uid)).await?;
        self.inner.inspect(uid).await
    }

    async fn list(&self) -> Result<Vec<Holding>, RuntimeError> {
        self.ask(Asked::List, None).await?;
        self.inner.list().await
    }

    async fn dial(
        &self,
        uid: &EnvironmentUid,
        lane: Lane,
    ) -> Result<Box<dyn RunnerIo>, RuntimeError> {
        self.ask(Asked::Dial, Some(uid)).await?;
        self.inner.dial(uid, lane).await
    }

    async fn check(&self) -> Result<(), RuntimeError> {
        self.inner.check().await
    }
}
