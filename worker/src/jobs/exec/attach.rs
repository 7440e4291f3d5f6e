//! Follows a running command over one connection: output into the store, cancels into the environment.

use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt as _, OptionFuture};
use runner::proto::attach_event::Event;
use runner::proto::{AttachRequest, JobRecord, ReleaseRequest, SignalRequest};
use shared::job::{Begun, CancelRequest};
use shared::ports::Watch;
use tonic::{Code, Status};

use super::feed::{Fed, feed};
use super::{CONFIRM_TIME, Run, Step};
use crate::execute::End;
use crate::links::Link;
use crate::reach::is_answer;

/// How long output waits for more before it is written.
const FLUSH_AFTER: Duration = Duration::from_millis(100);

/// Bytes at which output is written at once.
const FLUSH_BYTES: usize = 1 << 20;

/// Bytes of output in the store after which the runner may free them.
const RELEASE_BYTES: u64 = 16 << 20;

/// How long the runner may take to free output.
const RELEASE_TIME: Duration = Duration::from_secs(5);

/// How long the runner may take to accept an attach.
const ATTACH_TIME: Duration = Duration::from_secs(30);

type Signalled<'a> = BoxFuture<'a, Result<tonic::Response<JobRecord>, Status>>;

/// What can happen next.
enum Happening {
    Output(runner::proto::Output),
    Ended(JobRecord),
    Broke(String),
    Lied(String),
    FlushDue,
    Looked(Option<CancelRequest>),
    Signalled(Result<(), Status>),
    Fed(Fed),
    Overdue,
    Draining,
}

impl Run<'_> {
    pub(super) async fn attach(&mut self, link: &Link) -> Step {
        let offsets = self.copier.next();
        let request = AttachRequest {
            job_id: self.task.job.id.to_string(),
            stdout_offset: offsets.stdout,
            stderr_offset: offsets.stderr,
        };
        let mut client = link.client.clone();
        // Made before anything is read, so that no cancel is missed.
        let mut watch = self.task.context.store.watch(&self.task.at);
        let events = match tokio::time::timeout(ATTACH_TIME, client.attach(request)).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) if status.code() == Code::NotFound => return self.vanished().await,
            Ok(Err(status)) if status.code() == Code::OutOfRange && self.restarted.is_some() => {
                return self.record_alone(link).await;
            }
            Ok(Err(status)) if is_answer(&status) => {
                return Step::End(self.misbehaved(status.message()).await);
            }
            Ok(Err(status)) => return Step::Again(status.message().to_owned()),
            Err(_) => return Step::Again("no answer to attach".to_owned()),
        };
        self.follow(link, events, &mut watch).await
    }

    async fn follow(
        &mut self,
        link: &Link,
        mut events: tonic::Streaming<runner::proto::AttachEvent>,
        watch: &mut Watch,
    ) -> Step {
        let mut signal: Option<Signalled<'_>> = self
            .cancel
            .clone()
            .map(|request| self.signal(link, &request));
        let attached = self.task.context.clock.monotonic();
        let drain_at = drain_after(&self.task.context);
        tokio::pin!(drain_at);
        // The job may have been cancelled before the watch was made. Looked up beside the output: a short command has
        // ended before the answer is there.
        let task = self.task;
        let mut looking = self
            .cancel
            .is_none()
            .then(|| task.requested_cancel().boxed());
        let mut feeding = self
            .input
            .stdin_open
            .then(|| feed(task, link.clone()).boxed());
        loop {
            let due = self.copier.waiting_since().map(|since| since + FLUSH_AFTER);
            // Output comes last: a command that never stops writing must not keep anything else from being seen.
            let happening = tokio::select! {
                biased;
                () = tokio::time::sleep_until(self.overdue.into()) => Happening::Overdue,
                () = &mut drain_at => Happening::Draining,
                Some(done) = OptionFuture::from(signal.as_mut()) => {
                    signal = None;
                    Happening::Signalled(done.map(drop))
                }
                Some(found) = OptionFuture::from(looking.as_mut()) => {
                    looking = None;
                    Happening::Looked(found)
                }
                () = watch.changed(), if self.cancel.is_none() && looking.is_none() => {
                    looking = Some(task.requested_cancel().boxed());
                    continue;
                }
                Some(fed) = OptionFuture::from(feeding.as_mut()) => {
                    feeding = None;
                    Happening::Fed(fed)
                }
                () = until(due) => Happening::FlushDue,
                event = events.message() => match event {
                    Ok(Some(event)) => match event.event {
                        Some(Event::Output(output)) => Happening::Output(output),
                        Some(Event::End(record)) => Happening::Ended(record),
                        None => Happening::Broke("an event without content".to_owned()),
                    },
                    Ok(None) => Happening::Broke("the stream ended before the record".to_owned()),
                    // What is larger than any message may be was refused before it was read.
                    Err(status) if status.code() == Code::OutOfRange => {
                        Happening::Lied(status.message().to_owned())
                    }
                    Err(status) => Happening::Broke(status.message().to_owned()),
                },
            };
            let step = match happening {
                Happening::Output(output) => self.took(output, link).await,
                Happening::Ended(record) => Err(self.recorded(&record).await),
                Happening::Broke(why) => Err(self.broke(why).await),
                Happening::Lied(why) => Err(Step::End(self.misbehaved(&why).await)),
                Happening::FlushDue => self.flush().await,
                Happening::Looked(found) => {
                    if let Some(request) = found {
                        signal = Some(self.signal(link, &request));
                        self.set_cancel(request);
                    }
                    Ok(())
                }
                Happening::Signalled(Ok(())) => Ok(()),
                Happening::Signalled(Err(status)) if status.code() == Code::Aborted => {
                    Err(Step::End(End::Dropped))
                }
                Happening::Signalled(Err(status)) => Err(Step::Again(status.message().to_owned())),
                Happening::Fed(Fed::Done) => Ok(()),
                Happening::Fed(Fed::Dropped) => Err(Step::End(End::Dropped)),
                Happening::Fed(Fed::Broke(why)) => Err(self.broke(why).await),
                Happening::Overdue => Err(self.late(Some(attached)).await),
                Happening::Draining => match self.flush().await {
                    Ok(()) => Err(Step::End(End::HandBack(Begun::Perhaps))),
                    Err(step) => Err(step),
                },
            };
            if let Err(step) = step {
                return step;
            }
        }
    }

    async fn took(&mut self, output: runner::proto::Output, link: &Link) -> Result<(), Step> {
        if let Err(why) = self
            .copier
            .push(output, self.task.context.clock.monotonic())
        {
            return Err(Step::End(self.misbehaved(&why).await));
        }
        if self.copier.waiting_bytes() < FLUSH_BYTES {
            return Ok(());
        }
        self.flush().await?;
        if let Some(offsets) = self.copier.releasable(RELEASE_BYTES) {
            let mut request = tonic::Request::new(ReleaseRequest {
                job_id: self.task.job.id.to_string(),
                stdout_offset: offsets.stdout,
                stderr_offset: offsets.stderr,
                forget: false,
            });
            request.set_timeout(RELEASE_TIME);
            if let Err(status) = link.client.clone().release(request).await {
                tracing::debug!(
                    error = status.message(),
                    "the runner keeps output that the store holds"
                );
            }
        }
        Ok(())
    }

    /// What arrived goes into the store before the next connection asks for what follows.
    pub(super) async fn broke(&mut self, why: String) -> Step {
        match self.flush().await {
            Ok(()) => Step::Again(why),
            Err(step) => step,
        }
    }

    /// The runner was asked to start the command, yet has no record of it.
    pub(super) async fn vanished(&mut self) -> Step {
        Step::End(
            self.misbehaved("it has no record of a command that it started")
                .await,
        )
    }

    fn signal(&self, link: &Link, request: &CancelRequest) -> Signalled<'static> {
        let grace = Duration::from_secs(request.grace_seconds);
        let mut message = tonic::Request::new(SignalRequest {
            job_id: self.task.job.id.to_string(),
            fence: self.task.fence().0,
            signal: request.signal,
            kill: true,
            grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX),
        });
        message.set_timeout(grace + CONFIRM_TIME * 2);
        let mut client = link.client.clone();
        async move { client.signal(message).await }.boxed()
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Returns half of the shutdown grace after the soft token: short commands end by themselves until then.
async fn drain_after(context: &crate::context::Context) {
    context.soft.cancelled().await;
    tokio::time::sleep(context.shutdown_grace / 2).await;
}
