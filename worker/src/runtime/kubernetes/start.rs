//! How far the start of a pod is: waited for on the watch alone, told while it is held up, given up in time.
//!
//! An image that cannot be had and a container that does not stay are given up soon, since waiting seldom helps. Room and
//! volumes are waited for as long as the settings allow: a cluster may have to grow.

use std::time::{Duration, Instant};

use shared::environment::Reason;
use shared::ids::{EnvironmentUid, InstanceId};
use shared::ports::{Heard, Placement, RuntimeError};

use super::cluster::Cluster;
use super::gone::AT_ONCE;
use super::state::{Hindrance, Kind, State};
use super::watch::Known;

/// How long a trouble that seldom goes by itself is waited for: the cluster tries three times in it.
const TROUBLE_TIME: Duration = Duration::from_secs(40);

/// How long a pod may be unknown to the watch before the API server is asked for it.
const UNSEEN_TIME: Duration = Duration::from_secs(3);

/// What the watch says of a start.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Look {
    Started,
    /// Not yet, and what holds it up, if anything does.
    Held(Option<Hindrance>),
    Ended(Reason),
    /// There is no pod, or it is going.
    Unseen,
}

/// How long one start is waited for.
struct Patience {
    began: Instant,
    start_time: Duration,
    /// Since when there is trouble.
    troubled: Option<Instant>,
}

impl Patience {
    /// When a start that is held up by this is given up.
    fn end(&mut self, held: Option<&Hindrance>, now: Instant) -> Instant {
        let latest = self.began + self.start_time;
        match held.map(|hindrance| hindrance.kind) {
            Some(Kind::NoImage) => now,
            Some(Kind::ImageTrouble | Kind::ContainerTrouble) => {
                let since = *self.troubled.get_or_insert(now);
                latest.min(since + TROUBLE_TIME)
            }
            Some(Kind::Waiting) => {
                self.troubled = None;
                latest
            }
            // What is tried again looks for a moment as if nothing were wrong.
            None => latest,
        }
    }
}

impl Cluster {
    /// Returns when PID 1 was started. A pod that is given up is ended.
    pub(super) async fn started(
        &self,
        placement: &Placement,
        heard: &Heard,
    ) -> Result<(), RuntimeError> {
        let waited = self.wait_for_start(placement, heard).await;
        if matches!(
            waited,
            Err(RuntimeError::Failed(_) | RuntimeError::ImageNotFound { .. })
        ) {
            self.give_up(&placement.uid).await;
        }
        waited
    }

    async fn wait_for_start(
        &self,
        placement: &Placement,
        heard: &Heard,
    ) -> Result<(), RuntimeError> {
        let mut patience = self.patience(&placement.uid);
        loop {
            let look = look(&self.watched.known(), &placement.uid, &self.instance);
            let held = match &look {
                Look::Started => return Ok(()),
                Look::Ended(reason) => return Err(RuntimeError::Failed(reason.clone())),
                Look::Held(held) => held.as_ref(),
                Look::Unseen => None,
            };
            tell(held, heard);
            let now = self.clock.monotonic();
            let end = patience.end(held, now);
            if now >= end {
                return Err(self.too_long(placement, held));
            }
            let left = end.saturating_duration_since(now);
            if look == Look::Unseen {
                let shortly = left.min(UNSEEN_TIME);
                if self.unchanged(&placement.uid, &look, shortly).await {
                    self.is_somewhere(&placement.uid).await?;
                }
            } else {
                self.unchanged(&placement.uid, &look, left).await;
            }
        }
    }

    fn patience(&self, uid: &EnvironmentUid) -> Patience {
        let known = self.watched.known();
        let pod = known.pod_of(uid, &self.instance);
        let since = pod.and_then(|pod| known.since(pod));
        Patience {
            began: since.unwrap_or_else(|| self.clock.monotonic()),
            start_time: self.settings.start_time,
            troubled: None,
        }
    }

    /// Whether a look stays what it is for that long.
    async fn unchanged(&self, uid: &EnvironmentUid, before: &Look, time: Duration) -> bool {
        let news = self
            .watched
            .until(|known| (look(known, uid, &self.instance) != *before).then_some(()));
        tokio::time::timeout(time, news).await.is_err()
    }

    /// The watch knows no pod: then there is none, or it will be known soon.
    async fn is_somewhere(&self, uid: &EnvironmentUid) -> Result<(), RuntimeError> {
        let pods = self.pods_of(uid).await?;
        let stays = pods
            .iter()
            .any(|pod| pod.metadata.deletion_timestamp.is_none());
        stays.then_some(()).ok_or(RuntimeError::NotRunning)
    }

    fn too_long(&self, placement: &Placement, held: Option<&Hindrance>) -> RuntimeError {
        match held {
            Some(Hindrance {
                reason,
                kind: Kind::NoImage | Kind::ImageTrouble,
            }) => RuntimeError::ImageNotFound {
                image: placement.spec.image.clone(),
                why: reason.message.clone(),
            },
            Some(hindrance) => RuntimeError::Failed(hindrance.reason.clone()),
            None => RuntimeError::Failed(Reason::new(
                "start_too_slow",
                format!(
                    "the pod did not start within {} s",
                    self.settings.start_time.as_secs()
                ),
            )),
        }
    }

    /// So that what was given up does not start after all. Best effort: the environment's next start or its end does the
    /// same again.
    async fn give_up(&self, uid: &EnvironmentUid) {
        let _turn = self.turn(uid).await;
        let ended = async {
            for pod in self.pods_of(uid).await? {
                self.end_pod(uid, &pod, AT_ONCE).await?;
            }
            Ok::<_, RuntimeError>(())
        };
        if let Err(error) = ended.await {
            tracing::warn!(%uid, %error, "a pod that was given up may start later");
        }
    }
}

fn look(known: &Known, uid: &EnvironmentUid, instance: &InstanceId) -> Look {
    let pod = known.pod_of(uid, instance);
    let Some(pod) = pod.filter(|pod| pod.metadata.deletion_timestamp.is_none()) else {
        return Look::Unseen;
    };
    match known.state(pod) {
        State::Starting(held) => Look::Held(held),
        State::Running { .. } => Look::Started,
        State::Ended(reason) => Look::Ended(reason),
    }
}

fn tell(held: Option<&Hindrance>, heard: &Heard) {
    let Some(hindrance) = held else { return };
    heard.send_if_modified(|told| {
        let news = told.as_ref() != Some(&hindrance.reason);
        if news {
            *told = Some(hindrance.reason.clone());
        }
        news
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(kind: Kind) -> Hindrance {
        Hindrance {
            reason: Reason::new("x", "y"),
            kind,
        }
    }

    #[test]
    fn what_seldom_helps_is_given_up_soon_and_what_may_help_is_not() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut patience = Patience {
            began,
            start_time: Duration::from_secs(600),
            troubled: None,
        };
        let trouble = held(Kind::ImageTrouble);
        assert_eq!(patience.end(None, at(1)), at(600));
        assert_eq!(patience.end(Some(&trouble), at(10)), at(50));
        assert_eq!(patience.end(None, at(20)), at(600));
        assert_eq!(patience.end(Some(&trouble), at(30)), at(50));
        let waiting = held(Kind::Waiting);
        assert_eq!(patience.end(Some(&waiting), at(40)), at(600));
        assert_eq!(patience.end(Some(&trouble), at(590)), at(600));
        let hopeless = held(Kind::NoImage);
        assert_eq!(patience.end(Some(&hopeless), at(595)), at(595));
    }
}
