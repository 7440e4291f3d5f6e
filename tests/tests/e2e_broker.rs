//! The program on a real RabbitMQ broker: the broker may die, forget and repeat itself, and every accepted job ends, once.

use std::collections::BTreeSet;

use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, QueuePurgeOptions};
use serde_json::json;
use tests::broker::Broker;
use tests::program::Program;

/// The queue of commands, as the settings name it unless told otherwise.
const WORK: &str = "environment-manager.work";

async fn program(broker: &Broker, concurrency: &str) -> Program {
    Program::start_with(&[
        ("EM_QUEUE__KIND", "rabbitmq"),
        ("EM_QUEUE__URL", &broker.url()),
        ("EM_WORKER__CONCURRENCY", concurrency),
    ])
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_accepted_while_the_broker_is_dead_ends_once_it_is_back() {
    let mut broker = Broker::start().await;
    let program = program(&broker, "4").await;
    let client = program.client();
    client.create("env").await;
    assert_eq!(client.printed("env", "echo before").await, "before\n");

    broker.kill();
    let body = json!({ "command": "echo during >> /app/runs; cat /app/runs" });
    let waiting = client.submit("env", &body).await;
    broker.start_again().await;

    // Nobody but the sweep tells of it.
    let job = client.ended(&waiting).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(client.printed("env", "cat /app/runs").await, "during\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_forgets_repeats_and_reorders_loses_no_job_and_runs_none_twice() {
    const JOBS: usize = 40;
    const SLOTS: usize = 2;
    let mut broker = Broker::start().await;
    let program = program(&broker, &SLOTS.to_string()).await;
    let client = program.client();
    client.create("env").await;
    let mut jobs = Vec::new();
    for number in 0..JOBS {
        // The first ones keep all slots until the queue has forgotten the others.
        let seconds = if number < SLOTS { 8.0 } else { 0.1 };
        let body = json!({ "command": format!("echo {number} >> /app/runs; sleep {seconds}") });
        jobs.push(client.submit("env", &body).await);
    }
    let (_connection, somebody) = broker.somebody().await;
    let purged = somebody.queue_purge(WORK.into(), QueuePurgeOptions::default());
    assert!(purged.await.expect("it is purged") > 0, "hints waited");
    for job in jobs.iter().rev().step_by(2).flat_map(|job| [job, job]) {
        let hint = json!({ "tenant": "default", "job": job }).to_string();
        let options = BasicPublishOptions::default();
        let properties = BasicProperties::default().with_delivery_mode(2);
        let sent =
            somebody.basic_publish("".into(), WORK.into(), options, hint.as_bytes(), properties);
        sent.await.expect("it is sent").await.expect("it is taken");
    }
    client.ended(&jobs[JOBS - 1]).await;
    broker.kill();
    broker.start_again().await;

    for job in &jobs {
        let job = client.ended(job).await;
        assert_eq!(job["state"], "succeeded", "{job}");
    }
    let runs = client.printed("env", "cat /app/runs").await;
    let ran: BTreeSet<usize> = runs.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(ran, (0..JOBS).collect(), "all of them");
    assert_eq!(runs.lines().count(), JOBS, "none twice: {runs}");
}
