//! How far the start of a pod is: waited for on the watch, and on the runner itself once it may run; told while it is held
//! up, given up in time. What the watch says may be old, so the API server itself is asked once more before a start is
//! given up.
//!
//! An image that cannot be had and a container that does not stay are given up soon, since waiting seldom helps. Room and
//! volumes are waited for as long as the settings allow: a cluster may have to grow.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use shared::environment::Reason;
use shared::ids::EnvironmentUid;
use shared::ports::{Heard, Placement, RuntimeError, Started};

use super::cluster::Cluster;
use super::fault::failed;
use super::gone::AT_ONCE;
use super::state::{self, Hindrance, Kind, State};
use super::watch::Known;

/// How long a trouble that seldom goes by itself is waited for: the cluster tries three times in it.
const TROUBLE_TIME: Duration = Duration::from_secs(40);

/// How long a pod may be unknown to the watch before the API server is asked for it.
const UNSEEN_TIME: Duration = Duration::from_secs(3);

/// The pod that a start made.
#[derive(Clone, Copy)]
struct Made<'a> {
    name: &'a str,
    /// Its own uid: another pod of the life, or one that had its name before, says nothing of it.
    uid: Option<&'a str>,
}

/// What is seen of a start.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Look {
    Started,
    /// Not yet, and what holds it up, if anything does.
    Held(Option<Hindrance>),
    /// As far as the node has told not yet, but it may be.
    Soon,
    Ended(Reason),
    /// There is no pod, or it is going.
    Unseen,
}

impl Look {
    fn held(&self) -> Option<&Hindrance> {
        match self {
            Self::Held(held) => held.as_ref(),
            Self::Started | Self::Soon | Self::Ended(_) | Self::Unseen => None,
        }
    }
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

    /// Whether what is seen is not waited for any longer.
    fn is_over(&mut self, seen: &Look, now: Instant) -> bool {
        match seen {
            Look::Started => false,
            Look::Ended(_) => true,
            Look::Held(_) | Look::Soon | Look::Unseen => now >= self.end(seen.held(), now),
        }
    }
}

impl Cluster {
    /// Returns when PID 1 was started. A pod that is given up is ended.
    pub(super) async fn started(
        &self,
        placement: &Placement,
        made: &Started,
        heard: &Heard,
    ) -> Result<(), RuntimeError> {
        let made = Made {
            name: &made.container,
            uid: made.object.as_deref(),
        };
        let waited = self.wait_for_start(placement, made, heard).await;
        if matches!(
            waited,
            Err(RuntimeError::Failed(_) | RuntimeError::ImageNotFound { .. })
        ) {
            self.give_up(&placement.uid, made).await;
        }
        waited
    }

    async fn wait_for_start(
        &self,
        placement: &Placement,
        made: Made<'_>,
        heard: &Heard,
    ) -> Result<(), RuntimeError> {
        let mut patience = self.patience(made);
        loop {
            let watched = look(&self.watched.known(), made);
            let now = self.clock.monotonic();
            let mut seen = watched.clone();
            if patience.is_over(&seen, now) {
                // The watch may lag: that it is in vain only the API server itself says.
                seen = self.look_now(made).await?;
                if patience.is_over(&seen, now) {
                    return Err(self.in_vain(placement, &seen));
                }
            }
            if seen == Look::Started {
                return Ok(());
            }
            tell(seen.held(), heard);
            let mut time = patience
                .end(seen.held(), now)
                .saturating_duration_since(now);
            if seen == Look::Unseen || seen != watched {
                time = time.min(UNSEEN_TIME);
            }
            let unchanged = self.unchanged(made, &watched, time);
            let same = if seen == Look::Soon {
                tokio::select! {
                    same = unchanged => same,
                    () = self.heard_early(made.name) => {
                        if let Some(uid) = made.uid {
                            self.watched.known().answers(uid);
                        }
                        return Ok(());
                    }
                }
            } else {
                unchanged.await
            };
            if same && seen == Look::Unseen && self.look_now(made).await? == Look::Unseen {
                return Err(RuntimeError::NotRunning);
            }
        }
    }

    fn patience(&self, made: Made<'_>) -> Patience {
        let known = self.watched.known();
        let since = known.pods().find(|pod| made.is(pod));
        let since = since.and_then(|pod| known.since(pod));
        Patience {
            began: since.unwrap_or_else(|| self.clock.monotonic()),
            start_time: self.settings.start_time,
            troubled: None,
        }
    }

    /// Whether a look stays what it is for that long.
    async fn unchanged(&self, made: Made<'_>, before: &Look, time: Duration) -> bool {
        let news = self
            .watched
            .until(|known| (look(known, made) != *before).then_some(()));
        tokio::time::timeout(time, news).await.is_err()
    }

    /// What the API server itself says now.
    async fn look_now(&self, made: Made<'_>) -> Result<Look, RuntimeError> {
        let found = self.pods.get_opt(made.name).await;
        let found = found.map_err(failed("the pod cannot be read"))?;
        let found = found.filter(|pod| made.is(pod));
        Ok(look_at(&self.watched.known(), found.as_ref()))
    }

    /// Why a start is given up.
    fn in_vain(&self, placement: &Placement, seen: &Look) -> RuntimeError {
        if let Look::Ended(reason) = seen {
            return RuntimeError::Failed(reason.clone());
        }
        match seen.held() {
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
    async fn give_up(&self, uid: &EnvironmentUid, made: Made<'_>) {
        let _turn = self.turn(uid).await;
        let ended = async {
            for pod in self.pods_of(uid).await? {
                if made.is(&pod) {
                    self.end_pod(uid, &pod, AT_ONCE).await?;
                }
            }
            Ok::<_, RuntimeError>(())
        };
        if let Err(error) = ended.await {
            tracing::warn!(%uid, %error, "a pod that was given up may start later");
        }
    }
}

impl Made<'_> {
    fn is(&self, pod: &Pod) -> bool {
        match self.uid {
            Some(uid) => pod.metadata.uid.as_deref() == Some(uid),
            None => pod.metadata.name.as_deref() == Some(self.name),
        }
    }
}

fn look(known: &Known, made: Made<'_>) -> Look {
    let pod = known.pods().find(|pod| made.is(pod));
    look_at(known, pod.map(Arc::as_ref))
}

fn look_at(known: &Known, pod: Option<&Pod>) -> Look {
    let Some(pod) = pod.filter(|pod| pod.metadata.deletion_timestamp.is_none()) else {
        return Look::Unseen;
    };
    match known.state(pod) {
        State::Starting(None) if state::may_run(pod) => Look::Soon,
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
    use serde_json::{Value, json};

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
        assert!(patience.is_over(&Look::Held(Some(hopeless)), at(1)));
        assert!(
            !patience.is_over(&Look::Unseen, at(599)) && patience.is_over(&Look::Unseen, at(600))
        );
        assert!(!patience.is_over(&Look::Started, at(600)));
    }

    fn pod(name: &str, uid: &str, status: &Value) -> Pod {
        let metadata = json!({ "name": name, "uid": uid });
        serde_json::from_value(json!({ "metadata": metadata, "status": status })).unwrap()
    }

    #[test]
    fn another_pod_of_the_life_says_nothing_of_the_one_that_was_made() {
        let evicted = json!({ "phase": "Failed", "reason": "Evicted" });
        let mut known = Known::new();
        known.hear_of(pod("em-a-1", "before", &evicted));
        known.hear_of(pod("em-a-2", "gone", &evicted));
        let made = Made {
            name: "em-a-2",
            uid: Some("made"),
        };
        assert_eq!(look(&known, made), Look::Unseen);
        known.hear_of(pod("em-a-2", "made", &json!({ "phase": "Pending" })));
        assert_eq!(look(&known, made), Look::Held(None));
        let nameless = Made { uid: None, ..made };
        assert_eq!(look(&known, nameless), Look::Held(None));
    }
}
