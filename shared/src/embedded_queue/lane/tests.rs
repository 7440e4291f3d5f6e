//! The lane against a model: no published job is ever neither in the lane nor in what it still has to read.

use std::collections::{BTreeSet, HashSet};

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::ids::TenantId;

fn job(number: u8) -> JobRef {
    JobRef {
        tenant: TenantId::default_tenant(),
        job: JobId::from_uuid(Uuid::from_u128(u128::from(number))),
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// A job becomes runnable in the store and is published.
    Accept(u8),
    /// A job in the store is published once more.
    Again(u8),
    Receive,
    /// The oldest delivery is settled; its job is leased first.
    Ack,
    /// The oldest delivery is dropped.
    Drop,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        any::<u8>().prop_map(Step::Accept),
        any::<u8>().prop_map(Step::Again),
        Just(Step::Receive),
        Just(Step::Receive),
        Just(Step::Ack),
        Just(Step::Drop),
    ];
    prop::collection::vec(step, 0..200)
}

/// The store and what the receivers hold.
struct Model {
    lane: Lane,
    runnable: BTreeSet<u8>,
    held: VecDeque<JobRef>,
}

impl Model {
    fn new(capacity: usize) -> Self {
        Self {
            lane: Lane::new(capacity),
            runnable: BTreeSet::new(),
            held: VecDeque::new(),
        }
    }

    fn receive(&mut self) -> Option<JobRef> {
        loop {
            match self.lane.next() {
                Next::Hint(at) => return Some(at),
                Next::Behind => self.read_page(),
                Next::Wait { .. } => return None,
            }
        }
    }

    fn read_page(&mut self) {
        let Some(page) = self.lane.begin_page() else {
            return;
        };
        let found = self
            .runnable
            .iter()
            .map(|number| job(*number))
            .filter(|at| page.after.is_none_or(|after| at.job > after))
            .take(page.limit as usize)
            .collect();
        self.lane.end_page(&page, found);
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Accept(number) => {
                self.runnable.insert(*number);
                self.lane.publish(&job(*number));
            }
            Step::Again(number) => {
                if self.runnable.contains(number) {
                    self.lane.publish(&job(*number));
                }
            }
            Step::Receive => {
                let received = self.receive();
                self.held.extend(received);
            }
            Step::Ack => {
                if let Some(at) = self.held.pop_front() {
                    self.runnable.retain(|number| job(*number) != at);
                    self.lane.settle(&at);
                }
            }
            Step::Drop => {
                if let Some(at) = self.held.pop_front() {
                    self.lane.give_back(at);
                }
            }
        }
    }

    fn end_all_rests(&self) {
        let mut hints = self.lane.lock();
        let returned: Vec<_> = hints.returned.drain(..).collect();
        hints.buffer.extend(returned.into_iter().map(|(_, at)| at));
    }
}

proptest! {
    #[test]
    fn nothing_is_lost_and_nothing_is_held_twice(capacity in 1usize..6, steps in steps()) {
        let mut model = Model::new(capacity);
        for step in &steps {
            model.step(step);
            let distinct: HashSet<_> = model.held.iter().collect();
            prop_assert_eq!(distinct.len(), model.held.len(), "a job is held twice");
            let hints = model.lane.lock();
            prop_assert!(hints.buffer.len() <= capacity + hints.returned.len() + model.held.len() + capacity);
        }
        while let Some(at) = model.held.pop_front() {
            model.lane.give_back(at);
        }
        let mut received = HashSet::new();
        loop {
            model.end_all_rests();
            let Some(at) = model.receive() else { break };
            model.lane.settle(&at);
            model.runnable.retain(|number| job(*number) != at);
            received.insert(at);
        }
        prop_assert!(model.runnable.is_empty(), "never received: {:?}", model.runnable);
    }
}

#[test]
fn what_is_published_while_in_flight_comes_again_after_the_ack() {
    let mut model = Model::new(4);
    assert!(model.receive().is_none());
    model.step(&Step::Accept(1));
    let at = model.receive().expect("a hint");
    model.lane.publish(&at);
    model.lane.publish(&at);
    assert!(model.receive().is_none(), "it is in flight");
    model.lane.settle(&at);
    assert_eq!(model.receive(), Some(at.clone()));
    model.lane.settle(&at);
    model.runnable.clear();
    assert!(model.receive().is_none(), "once more, not twice");
}

#[test]
fn a_steady_stream_of_new_jobs_does_not_starve_old_ones() {
    let mut model = Model::new(2);
    assert!(model.receive().is_none());
    for number in 0..10 {
        model.step(&Step::Accept(number));
    }
    let mut order = Vec::new();
    for number in 10..30 {
        model.step(&Step::Accept(number));
        let at = model.receive().expect("a hint");
        model.held.push_back(at.clone());
        model.step(&Step::Ack);
        order.push(at);
    }
    let expected: Vec<_> = (0..20).map(job).collect();
    assert_eq!(order, expected);
}
