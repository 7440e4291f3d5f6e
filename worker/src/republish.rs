//! When a runnable job that nobody picked up is told to the queue again: after 30 s, then ever more seldom.

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
        let mut due = Vec::new();
        for job in waiting {
            let (mut at, mut pause) = before.get(job).copied().unwrap_or((now + FIRST, FIRST));
            if at <= now && due.len() < limit {
                due.push(*job);
                pause = (pause * 2).min(MOST);
                at = now + pause;
            }
            self.waiting.insert(*job, (at, pause));
        }
        due
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
            if !republisher
                .due(&[job], 10, start + Duration::from_secs(second))
                .is_empty()
            {
                published.push(second);
            }
        }
        assert_eq!(published, [30, 90, 210, 450, 930, 1890, 3690]);
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
        assert_eq!(republisher.due(&jobs, 2, later).len(), 2);
        assert_eq!(republisher.due(&jobs, 2, later).len(), 2);
        assert_eq!(republisher.due(&[], 2, later).len(), 0);
        assert!(republisher.waiting.is_empty());
    }
}
