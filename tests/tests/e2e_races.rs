//! Create, stop, start, delete and commands raced against each other: every job ends once, and nothing is left over.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _, stream};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::Method;
use serde_json::{Value, json};
use tests::program::{Answer, Client, Program, id_of, processes_with};
use tests::rounds;

/// Random orders in all, in a run that is not long.
const ORDERS: usize = 200;

/// Orders at a time.
const AT_ONCE: usize = 8;

/// Jobs of each kind that succeed in all orders together, at least. Chance leaves a multiple of it.
const SUCCEEDED: usize = 5;

#[derive(Debug, Clone, Copy)]
enum Step {
    Create,
    Stop,
    Start,
    Delete,
    Exec,
}

/// Some steps, each with the pause before it.
fn order(random: &mut StdRng) -> Vec<(Duration, Step)> {
    let steps = [
        Step::Create,
        Step::Stop,
        Step::Stop,
        Step::Start,
        Step::Start,
        Step::Delete,
        Step::Exec,
        Step::Exec,
    ];
    // From all at once to as far apart as a stop and a start need.
    let spread = [60, 400, 2000][random.random_range(0..3)];
    let number = random.random_range(4..9);
    (0..number)
        .map(|_| {
            let pause = Duration::from_millis(random.random_range(0..spread));
            (pause, steps[random.random_range(0..steps.len())])
        })
        .collect()
}

async fn ask(client: &Client, id: &str, marker: &str, step: Step) -> Answer {
    let at = format!("/v1/environments/{id}");
    match step {
        Step::Create => client.post("/v1/environments", &json!({ "id": id })).await,
        Step::Stop => client.post(&format!("{at}/stop"), &json!({})).await,
        Step::Start => client.post(&format!("{at}/start"), &json!({})).await,
        Step::Delete => client.delete(&at).await,
        Step::Exec => {
            let body = json!({ "command": ["sh", "-c", "sleep 0.1; echo end", marker], "timeout_seconds": 60 });
            client.post(&format!("{at}/exec"), &body).await
        }
    }
}

/// What came of one order.
#[derive(Default)]
struct Told {
    /// How often each status was answered.
    statuses: BTreeMap<u16, u32>,
    /// How often jobs ended in each state.
    states: BTreeMap<String, u32>,
    /// Every job as it ended.
    jobs: Vec<Value>,
}

async fn play(client: &Client, seed: u64, marker: &str) -> Told {
    let mut random = StdRng::seed_from_u64(seed);
    let id = format!("raced-{seed}");
    let first = ask(client, &id, marker, Step::Create);
    // Half of the orders begin where the environment runs: creating it takes longer than they do.
    let first = if random.random() {
        let created = first.await;
        client.ended(id_of(&created.json())).await;
        futures::future::ready(created).left_future()
    } else {
        first.right_future()
    };
    let rest = order(&mut random).into_iter().map(|(pause, step)| {
        let id = &id;
        async move {
            tokio::time::sleep(pause).await;
            ask(client, id, marker, step).await
        }
    });
    let (first, rest) = futures::join!(first, futures::future::join_all(rest));
    let mut told = Told::default();
    let mut accepted = Vec::new();
    for answer in std::iter::once(first).chain(rest) {
        *told.statuses.entry(answer.status).or_default() += 1;
        match answer.status {
            202 => accepted.push(id_of(&answer.json()).to_owned()),
            // A create of what is there already answers the job that made it, which may have ended.
            200 => accepted.push(id_of(&answer.json()).to_owned()),
            404 | 409 | 410 => {}
            status => panic!("seed {seed}: {status} {}", answer.text()),
        }
    }
    accepted.sort();
    accepted.dedup();
    for job in accepted {
        told.jobs.push(client.ended(&job).await);
    }
    told.jobs.extend(removed(client, &id).await);
    for job in &told.jobs {
        let state = job["state"].as_str().unwrap().to_owned();
        *told.states.entry(state).or_default() += 1;
        assert!(job["finished_at"].is_string(), "seed {seed}: {job}");
        assert!(ended_as_it_may(job), "seed {seed}: {job}");
    }
    told
}

/// Whether a job succeeded, or ended as a stop or a delete beside it explains.
fn ended_as_it_may(job: &Value) -> bool {
    let is_exec = job["kind"] == "exec";
    match (job["state"].as_str(), job["error"]["code"].as_str()) {
        (Some("succeeded"), None) => !is_exec || job["result"]["stdout"] == "end\n",
        (Some("cancelled"), Some("environment_deleted")) => true,
        (Some("cancelled" | "failed"), Some("environment_stopped")) => is_exec,
        _ => false,
    }
}

/// Deletes the environment if the order has not, and gives the job.
async fn removed(client: &Client, id: &str) -> Option<Value> {
    let answer = client.delete(&format!("/v1/environments/{id}")).await;
    let job = match answer.status {
        202 => client.ended(id_of(&answer.json())).await,
        404 | 410 => return None,
        status => panic!("{status} {}", answer.text()),
    };
    assert_eq!(job["state"], "succeeded", "{job}");
    Some(job)
}

#[tokio::test]
async fn two_hundred_random_orders_leave_nothing_behind() {
    let program = Program::start().await;
    let client = program.client();
    let marker = format!("raced-{:016x}", rand::random::<u64>());
    client.create("keeper").await;
    program.note_instance();
    let begin = u64::from(rand::random::<u32>());
    let orders = rounds(ORDERS) as u64;
    eprintln!("the seeds are {begin} and the {} after it", orders - 1);
    let all: Vec<Told> = stream::iter(begin..begin + orders)
        .map(|seed| play(&client, seed, &marker))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    assert!(removed(&client, "keeper").await.is_some());

    let (mut statuses, mut states) = (BTreeMap::new(), BTreeMap::new());
    for told in &all {
        for (status, count) in &told.statuses {
            *statuses.entry(*status).or_insert(0) += count;
        }
        for (state, count) in &told.states {
            *states.entry(state.as_str()).or_insert(0) += count;
        }
    }
    eprintln!("answers: {statuses:?}; ends: {states:?}");
    let succeeded = |kind: &str| {
        let jobs = all.iter().flat_map(|told| &told.jobs);
        jobs.filter(|job| job["kind"] == kind && job["state"] == "succeeded")
            .count()
    };
    eprintln!(
        "{:?}",
        ["create", "stop", "start", "delete", "exec"].map(succeeded)
    );
    for kind in ["create", "stop", "start", "delete", "exec"] {
        let (found, least) = (succeeded(kind), SUCCEEDED);
        assert!(found >= least, "only {found} of the kind {kind} succeeded");
    }
    for job in all.iter().flat_map(|told| &told.jobs) {
        assert_eq!(client.job(id_of(job)).await, *job, "its end never changes");
    }
    assert_eq!(processes_with(&marker), []);
    assert_eq!(program.traces().await, Vec::<String>::new());
    assert_eq!(open_jobs(&client).await, Vec::<Value>::new());
    let log = program.log();
    assert!(!log.contains("panicked") && !log.contains("\"level\":\"ERROR\""));
}

async fn open_jobs(client: &Client) -> Vec<Value> {
    let mut open = Vec::new();
    for state in ["queued", "running"] {
        let page = client
            .get(&format!("/v1/jobs?state={state}"))
            .await
            .expect(200)
            .json();
        open.extend(page["jobs"].as_array().unwrap().iter().cloned());
    }
    open
}

#[tokio::test]
async fn racing_requests_with_one_key_are_one_job() {
    let program = Program::start().await;
    let client = program.client();
    client.create("env").await;
    let send = async |body: Value| {
        let request = client
            .request(Method::POST, "/v1/environments/env/exec")
            .header("Idempotency-Key", "the-key");
        client.send(request.json(&body)).await
    };
    let body = json!({ "command": "echo ran >> runs" });
    let racing = futures::future::join_all((0..16).map(|_| send(body.clone()))).await;
    let mut ids: Vec<_> = racing
        .iter()
        .map(|answer| id_of(&answer.json()).to_owned())
        .collect();
    ids.sort();
    ids.dedup();
    let [id] = &ids[..] else { panic!("{ids:?}") };
    client.ended(id).await;
    let again = send(body).await;
    assert_eq!(id_of(&again.json()), id);
    assert_eq!(
        client.get_file("env", "runs").await.expect(200).text(),
        "ran\n"
    );
    send(json!({ "command": "echo other" })).await.expect(422);
}
