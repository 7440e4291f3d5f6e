//! When a runnable job that nobody picked up is told to the queue again: after 30 s, then ever more seldom. What the queue did
//! not take stays due, however long it is away.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use shared::ids::JobId;

const FIRST: Duration = Duration::from_secs(30);
const MOST: Duration = Duration::from_secs(30 * 60);

/// What has been seen waiting, and when it is due.
#[derive(Debug, Default)]
pub(crate) struct Republisher {
    waiting: HashMap<JobId, (Instant, Duration)>,
}

impl Republisher {
    /// Takes in the jobs that wait now, and answers those to be published now, at most `limit` of them.
    pub(crate) fn due(&mut self, waiting: &[JobId], limit: usize, now: Instant) -> Vec<JobId> {
        let before = std::mem::take(&mut self.waiting);
        let times = |job| before.get(job).copied().unwrap_or((now + FIRST, FIRST));
        self.waiting = waiting.iter().map(|job| (*job, times(job))).collect();
        let is_due = |job: &&JobId| self.waiting[*job].0 <= now;
        waiting.iter().filter(is_due).take(limit).copied().collect()
    }

    /// The queue has taken a job that was due.
    pub(crate) fn published(&mut self, job: &JobId, now: Instant) {
        if let Some((at, pause)) = self.waiting.get_mut(job) {
            *pause = (*pause * 2).min(MOST);
            *at = now + *pause;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_published_again_after_30_seconds_and_then_ever_more_seldom() {
        let job: JobId = "01920000-0000-7000-8000-000000000001"
            .parse()
            .expect("a job id");
        let (mut republisher, start) = (Republisher::default(), Instant::now());
        let mut published = Vec::new();
        for second in 0..4000 {
            let now = start + Duration::from_secs(second);
            if !republisher.due(&[job], 10, now).is_empty() {
                republisher.published(&job, now);
                published.push(second);
            }
        }
        assert_eq!(published, [30, 90, 210, 450, 930, 1890, 3690]);
    }

    #[test]
    fn what_the_queue_does_not_take_stays_due_however_long_it_is_away() {
        let job: JobId = "01920000-0000-7000-8000-000000000001"
            .parse()
            .expect("a job id");
        let (mut republisher, start) = (Republisher::default(), Instant::now());
        republisher.due(&[job], 10, start);
        for second in (30..4000).step_by(5) {
            let now = start + Duration::from_secs(second);
            assert_eq!(republisher.due(&[job], 10, now), [job]);
        }
    }

    #[test]
    fn a_round_is_bounded_and_what_was_picked_up_is_forgotten() {
        let jobs: Vec<JobId> = (0..5)
            .map(|n| {
                format!("01920000-0000-7000-8000-00000000000{n}")
                    .parse()
                    .expect("a job id")
            })
            .collect();
        let (mut republisher, start) = (Republisher::default(), Instant::now());
        republisher.due(&jobs, 2, start);
        let later = start + FIRST;
        for round in [&jobs[..2], &jobs[2..4]] {
            assert_eq!(republisher.due(&jobs, 2, later), round);
            for job in round {
                republisher.published(job, later);
            }
        }
        assert_eq!(republisher.due(&[], 2, later).len(), 0);
        assert!(republisher.waiting.is_empty());
    }
}
