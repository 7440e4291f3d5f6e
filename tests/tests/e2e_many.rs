//! Many at once: commands, environments, and what a store with very many of both lists.

use std::collections::HashSet;
use std::sync::Arc;

use futures::future::join_all;
use serde_json::{Value, json};
use shared::clock::SystemClock;
use shared::environment::EnvironmentEvent;
use shared::job::{JobInput, Outcome};
use shared::ports::Store;
use shared::sqlite::SqliteStore;
use tests::conformance::store::given::{Given, completion, environment, exec_input, result_of};
use tests::program::{Client, DataFolder, Program, id_of, processes_with, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_commands_run_at_once_in_twenty_environments() {
    const ENVIRONMENTS: usize = 20;
    const EACH: usize = 10;
    let program = Program::start().await;
    let client = program.client();
    let resources = json!({ "cpu": "250m", "memory": "64Mi" });
    let creates = (0..ENVIRONMENTS).map(async |number| {
        let body = json!({ "id": format!("env-{number}"), "resources": resources });
        client.create_from(&body).await;
    });
    join_all(creates).await;
    // Each waits for a word of its own, so that all of them run at the same time.
    let marker = format!("many-{:016x}", rand::random::<u64>());
    let script = "mkfifo $1; read word <$1; echo $0 $1 $word; exit $2";
    let submits = (0..ENVIRONMENTS * EACH).map(async |number| {
        let (own, code) = (format!("w{number}"), (number % 7).to_string());
        let command = json!({ "command": ["sh", "-c", script, &marker, own, code] });
        let environment = format!("env-{}", number % ENVIRONMENTS);
        (number, client.submit(&environment, &command).await)
    });
    let jobs = join_all(submits).await;
    wait_until("all of them run", async || {
        processes_with(&marker).len() == ENVIRONMENTS * EACH
    })
    .await;
    let words = (0..ENVIRONMENTS).map(async |environment| {
        let id = format!("env-{environment}");
        let script = "for at in w*; do echo hello >$at; done";
        client.printed(&id, script).await;
    });
    join_all(words).await;
    let ends = jobs.iter().map(async |(number, job)| {
        let ended = client.ended(job).await;
        assert_eq!(ended["result"]["exit_code"], number % 7, "{ended}");
        let said = format!("{marker} w{number} hello\n");
        assert_eq!(ended["result"]["stdout"], said.as_str(), "{ended}");
    });
    join_all(ends).await;
    assert_eq!(processes_with(&marker), []);
}

const STORED_ENVIRONMENTS: usize = 500;
const STORED_JOBS: usize = 100_000;

/// A store as a service has left it that had run for long.
async fn fill(folder: &DataFolder) {
    std::fs::create_dir_all(folder.path()).expect("made");
    let path = folder.path().join("environment-manager.db");
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&path, &SystemClock).expect("opened"));
    let given = Given::at_present(store);
    // Many at a time, so that they share commits.
    let writers = (0..100).map(|writer| {
        let given = given.clone();
        tokio::spawn(async move {
            for number in 0..STORED_ENVIRONMENTS / 100 {
                let at = environment(&format!("e{:03}", writer + number * 100));
                given.run(&at).await;
                for _ in 0..STORED_JOBS / STORED_ENVIRONMENTS {
                    let job = given.submit(&at, exec_input("true")).await.job;
                    let leased = given.lease(&job).await.job;
                    let end = completion(Outcome::success(result_of("done\n")));
                    given.finish(&leased, end).await;
                }
                let stop = given.submit(&at, JobInput::Stop {}).await.job;
                given.carry_out(&stop, EnvironmentEvent::Stopped).await;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("written");
    }
}

/// Every item of a list, page by page.
async fn all(client: &Client, list: &str, items: &str) -> Vec<Value> {
    let (mut found, mut token) = (Vec::new(), String::new());
    loop {
        let page = client.get(&format!("{list}&page_token={token}")).await;
        let page = page.expect(200).json();
        found.extend(page[items].as_array().expect("items").iter().cloned());
        token = page["next_page_token"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if token.is_empty() {
            return found;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_environments_and_a_hundred_thousand_jobs_are_listed_and_paged() {
    let folder = DataFolder::new();
    fill(&folder).await;
    let program = Program::start_on(folder, &[]).await;
    let client = program.client();
    let environments = all(&client, "/v1/environments?page_size=77", "environments").await;
    let names: HashSet<_> = environments.iter().map(id_of).collect();
    assert_eq!(names.len(), STORED_ENVIRONMENTS);
    assert_eq!(environments.len(), STORED_ENVIRONMENTS, "each once");
    let stopped = all(
        &client,
        "/v1/environments?phase=stopped&page_size=1000",
        "environments",
    );
    assert_eq!(stopped.await.len(), STORED_ENVIRONMENTS);

    let jobs = all(&client, "/v1/jobs?page_size=1000", "jobs").await;
    // With the create and the stop of each.
    let count = STORED_JOBS + 2 * STORED_ENVIRONMENTS;
    assert_eq!(jobs.len(), count);
    // The time that a job came at is the beginning of its id.
    let ids: Vec<_> = jobs.iter().map(id_of).collect();
    assert!(
        ids.is_sorted_by(|one, next| one > next),
        "each once, newest first"
    );
    let of_one = all(
        &client,
        "/v1/jobs?environment=e123&kind=exec&page_size=33",
        "jobs",
    )
    .await;
    assert_eq!(of_one.len(), STORED_JOBS / STORED_ENVIRONMENTS);
    let running = all(&client, "/v1/jobs?state=running&page_size=10", "jobs").await;
    assert_eq!(running.len(), 0);
    // A new one works beside them.
    client.create("new").await;
    assert_eq!(client.printed("new", "echo well").await, "well\n");
}
