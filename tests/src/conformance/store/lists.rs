//! Lists and their page tokens.

use std::collections::BTreeSet;

use shared::environment::{EnvironmentEvent, EnvironmentPatch, Phase};
use shared::ids::{ArtifactId, EnvironmentId, EnvironmentRef, JobId, TenantId};
use shared::job::{JobInput, JobKind, JobState, Outcome};
use shared::ports::{EnvironmentFilter, JobFilter, Label, ListError};

use super::given::{
    Given, completion, environment, environment_of, exec_input, list_input, page, remove_input,
    result_of,
};
use super::leases::artifact_of;

async fn all_jobs(given: &Given, tenant: &TenantId, filter: &JobFilter, size: u32) -> Vec<JobId> {
    let (mut ids, mut token) = (Vec::new(), None);
    loop {
        let found = given
            .store
            .jobs(tenant, filter, page(size, token))
            .await
            .expect("a page");
        assert!(found.items.len() <= size as usize);
        assert!(
            found.next.is_none() || found.items.len() == size as usize,
            "a page is full or the last"
        );
        ids.extend(found.items.iter().map(|job| job.id));
        token = found.next;
        if token.is_none() {
            return ids;
        }
    }
}

async fn all_environments(
    given: &Given,
    tenant: &TenantId,
    phase: Option<Phase>,
    size: u32,
) -> Vec<String> {
    let (mut ids, mut token) = (Vec::new(), None);
    loop {
        let found = given
            .store
            .environments(
                tenant,
                &EnvironmentFilter { phase, label: None },
                page(size, token),
            )
            .await
            .expect("a page");
        assert!(found.items.len() <= size as usize);
        ids.extend(
            found
                .items
                .iter()
                .map(|environment| environment.id.to_string()),
        );
        token = found.next;
        if token.is_none() {
            return ids;
        }
    }
}

pub(super) async fn pages_of_every_size_hold_every_job_once(given: &Given) {
    let at = given.running("e").await;
    for _ in 0..11 {
        given.exec(&at).await;
    }
    let all = all_jobs(given, &at.tenant, &JobFilter::default(), 1000).await;
    assert_eq!(all.len(), 12);
    assert!(all.is_sorted_by(|a, b| a > b), "newest first");
    for size in [1, 2, 3, 4, 6, 11, 12, 13] {
        let paged = all_jobs(given, &at.tenant, &JobFilter::default(), size).await;
        assert_eq!(paged, all, "pages of {size}");
    }
}

pub(super) async fn rows_that_come_while_pages_are_read_double_nothing(given: &Given) {
    let at = given.running("m").await;
    let before: BTreeSet<JobId> = {
        for _ in 0..10 {
            given.exec(&at).await;
        }
        all_jobs(given, &at.tenant, &JobFilter::default(), 100)
            .await
            .into_iter()
            .collect()
    };
    let (mut seen, mut token) = (Vec::new(), None);
    loop {
        let found = given
            .store
            .jobs(&at.tenant, &JobFilter::default(), page(2, token))
            .await
            .expect("a page");
        seen.extend(found.items.iter().map(|job| job.id));
        given.exec(&at).await;
        token = found.next;
        if token.is_none() {
            break;
        }
    }
    let unique: BTreeSet<JobId> = seen.iter().copied().collect();
    assert_eq!(unique.len(), seen.len(), "no double");
    assert_eq!(
        unique, before,
        "complete, and what came later is newer than every page"
    );

    let first = given
        .store
        .environments(&at.tenant, &EnvironmentFilter::default(), page(1, None))
        .await
        .expect("a page");
    assert_eq!(first.items[0].id.as_str(), "m");
    assert!(first.next.is_none());
    for name in ["a", "z"] {
        given.submit(&environment(name), JobInput::Create {}).await;
    }
    let first = given
        .store
        .environments(&at.tenant, &EnvironmentFilter::default(), page(2, None))
        .await
        .expect("a page");
    given.submit(&environment("b"), JobInput::Create {}).await;
    let second = given
        .store
        .environments(
            &at.tenant,
            &EnvironmentFilter::default(),
            page(2, first.next),
        )
        .await
        .expect("a page");
    let ids: Vec<_> = first
        .items
        .iter()
        .chain(&second.items)
        .map(|e| e.id.as_str())
        .collect();
    assert_eq!(ids, ["a", "m", "z"]);
}

pub(super) async fn jobs_are_found_by_each_condition(given: &Given) {
    let (one, two) = (given.running("one").await, given.running("two").await);
    let mut made: Vec<(&str, JobKind, JobState, JobId)> = Vec::new();
    for (name, at) in [("one", &one), ("two", &two)] {
        let exec = given.done(at, exec_input("true")).await;
        let queued = given.exec(at).await;
        let remove = given.done(at, remove_input()).await;
        let list = given.done(at, list_input()).await;
        for job in [exec, queued, remove, list] {
            made.push((name, job.input.kind(), job.state, job.id));
        }
    }
    made.reverse();
    let environments = [None, Some("one"), Some("two"), Some("none")];
    let kinds = [
        None,
        Some(JobKind::Exec),
        Some(JobKind::Remove),
        Some(JobKind::List),
        Some(JobKind::Publish),
    ];
    let states = [
        None,
        Some(JobState::Queued),
        Some(JobState::Succeeded),
        Some(JobState::Lost),
    ];
    for environment in environments {
        for (kind, state) in kinds
            .iter()
            .map(|kind| (*kind, None))
            .chain(states.iter().map(|state| (None, *state)))
        {
            let filter = JobFilter {
                label: None,
                environment: environment.map(|name| EnvironmentId::new(name).expect("an id")),
                kind,
                state,
            };
            let expected: Vec<JobId> = made
                .iter()
                .filter(|(name, of_kind, of_state, _)| {
                    environment.is_none_or(|environment| environment == *name)
                        && kind.map_or(!of_kind.only_reads(), |kind| kind == *of_kind)
                        && state.is_none_or(|state| state == *of_state)
                })
                .map(|(.., id)| *id)
                .collect();
            for size in [2, 100] {
                let mut found = all_jobs(given, &one.tenant, &filter, size).await;
                found.retain(|id| made.iter().any(|(.., known)| known == id));
                assert_eq!(found, expected, "{filter:?}");
            }
        }
    }
}

pub(super) async fn environments_are_listed_by_id_and_phase(given: &Given) {
    let tenant = TenantId::default_tenant();
    for name in ["b", "B", "a.1", "a-1", "a_1", "0"] {
        given.submit(&environment(name), JobInput::Create {}).await;
    }
    let runs = given.running("runs").await;
    let gone = given.running("gone").await;
    let delete = given.submit(&gone, JobInput::Delete {}).await.job;
    given.carry_out(&delete, EnvironmentEvent::Deleted).await;
    let mut living = vec!["b", "B", "a.1", "a-1", "a_1", "0", "runs"];
    living.sort_unstable();
    for size in [1, 2, 3, 7, 100] {
        assert_eq!(all_environments(given, &tenant, None, size).await, living);
        assert_eq!(
            all_environments(given, &tenant, Some(Phase::Running), size).await,
            ["runs"]
        );
        assert_eq!(
            all_environments(given, &tenant, Some(Phase::Deleted), size).await,
            ["gone"]
        );
        assert_eq!(
            all_environments(given, &tenant, Some(Phase::Pending), size)
                .await
                .len(),
            6
        );
    }
    let delete = given.submit(&runs, JobInput::Delete {}).await.job;
    assert_eq!(
        all_environments(given, &tenant, Some(Phase::Deleting), 9).await,
        ["runs"]
    );
    given.carry_out(&delete, EnvironmentEvent::Deleted).await;
    assert_eq!(
        all_environments(given, &tenant, Some(Phase::Deleted), 9).await,
        ["gone", "runs"]
    );
}

pub(super) async fn artifacts_are_listed_newest_first(given: &Given) {
    let at = given.running("e").await;
    let mut made = publish(given, &at, 7).await;
    made.reverse();
    for size in [1, 2, 3, 7, 100] {
        let (mut ids, mut token) = (Vec::new(), None);
        loop {
            let found = given
                .store
                .artifacts(&at.tenant, page(size, token))
                .await
                .expect("a page");
            assert!(found.items.len() <= size as usize);
            ids.extend(found.items.into_iter().map(|artifact| artifact.id));
            token = found.next;
            if token.is_none() {
                break;
            }
        }
        assert_eq!(ids, made, "pages of {size}");
    }
    let unknown = ArtifactId::of_publish(&given.job_id());
    assert!(
        given
            .store
            .artifact(&at.tenant, &unknown)
            .await
            .expect("works")
            .is_none()
    );
}

/// Artifacts in the order in which they were made.
async fn publish(given: &Given, at: &EnvironmentRef, count: usize) -> Vec<ArtifactId> {
    let mut made = Vec::new();
    for number in 0..count {
        let job = given.exec(at).await;
        let job = given.lease(&job).await.job;
        let mut end = completion(Outcome::success(result_of("")));
        let artifact = artifact_of(given, &job, &format!("object-{number}"));
        made.push(artifact.id.clone());
        end.artifact = Some(artifact);
        given.finish(&job, end).await;
    }
    made
}

pub(super) async fn a_token_of_another_list_is_refused(given: &Given) {
    let at = given.running("e").await;
    given.submit(&environment("f"), JobInput::Create {}).await;
    publish(given, &at, 2).await;
    let store = &given.store;
    let other_tenant = TenantId::new("other").expect("a tenant");
    given.run(&environment_of(&other_tenant, "e")).await;
    let every = JobFilter::default();
    let of_environment = JobFilter {
        environment: Some(at.environment.clone()),
        ..every.clone()
    };
    let of_state = JobFilter {
        state: Some(JobState::Succeeded),
        ..every.clone()
    };
    let jobs = store
        .jobs(&at.tenant, &every, page(1, None))
        .await
        .expect("a page")
        .next;
    let environments = store
        .environments(&at.tenant, &EnvironmentFilter::default(), page(1, None))
        .await
        .expect("a page")
        .next;
    let artifacts = store
        .artifacts(&at.tenant, page(1, None))
        .await
        .expect("a page")
        .next;
    let (jobs, environments, artifacts) = (
        jobs.expect("more"),
        environments.expect("more"),
        artifacts.expect("more"),
    );
    store
        .jobs(&at.tenant, &every, page(1, Some(jobs.clone())))
        .await
        .expect("its own");

    let mut damaged: Vec<String> = ["", "=", "x", "ä", "{}", "AAAA", "'; DROP TABLE jobs; --"]
        .map(str::to_owned)
        .to_vec();
    damaged.push(jobs[..jobs.len() - 1].to_owned());
    damaged.push(format!("{jobs}A"));
    damaged.push("A".repeat(1 << 20));
    let bad = |answer: Option<ListError>| {
        assert!(matches!(answer, Some(ListError::BadToken)), "{answer:?}");
    };
    for token in damaged.iter().chain([&environments, &artifacts]) {
        bad(store
            .jobs(&at.tenant, &every, page(1, Some(token.clone())))
            .await
            .err());
    }
    for filter in [&of_environment, &of_state] {
        bad(store
            .jobs(&at.tenant, filter, page(1, Some(jobs.clone())))
            .await
            .err());
    }
    bad(store
        .jobs(&other_tenant, &every, page(1, Some(jobs.clone())))
        .await
        .err());
    for token in damaged.iter().chain([&jobs, &artifacts]) {
        let page = page(1, Some(token.clone()));
        bad(store
            .environments(&at.tenant, &EnvironmentFilter::default(), page)
            .await
            .err());
    }
    let running = EnvironmentFilter {
        label: None,
        phase: Some(Phase::Running),
    };
    bad(store
        .environments(&at.tenant, &running, page(1, Some(environments.clone())))
        .await
        .err());
    for token in damaged.iter().chain([&jobs, &environments]) {
        bad(store
            .artifacts(&at.tenant, page(1, Some(token.clone())))
            .await
            .err());
    }
    bad(store
        .artifacts(&other_tenant, page(1, Some(artifacts)))
        .await
        .err());
}

pub(super) async fn jobs_and_environments_are_found_by_their_labels(given: &Given) {
    let label = |name: &str, value: &str| {
        Some(Label {
            name: name.to_owned(),
            value: value.to_owned(),
        })
    };
    let (one, two) = (given.running("one").await, given.running("two").await);
    let mut marked = Vec::new();
    for at in [&one, &two, &one, &two, &one] {
        given.exec(at).await;
        let mut submission = given.submission(at, exec_input("true"));
        submission.request.labels = [("run".to_owned(), "7=a".to_owned())].into();
        let submitted = given.store.submit(submission, given.now()).await;
        marked.push(submitted.expect("accepted").job.id);
    }
    marked.reverse();
    let of = |environment: Option<&EnvironmentRef>, label| JobFilter {
        environment: environment.map(|at| at.environment.clone()),
        label,
        ..JobFilter::default()
    };
    for size in [1, 2, 5, 6] {
        let found = all_jobs(given, &one.tenant, &of(None, label("run", "7=a")), size).await;
        assert_eq!(found, marked, "pages of {size}");
        let found = all_jobs(
            given,
            &one.tenant,
            &of(Some(&two), label("run", "7=a")),
            size,
        )
        .await;
        assert_eq!(found, [marked[1], marked[3]], "pages of {size}");
    }
    for (name, value) in [("run", "7"), ("RUN", "7=a"), ("", ""), ("7=a", "run")] {
        let found = all_jobs(given, &one.tenant, &of(None, label(name, value)), 10).await;
        assert_eq!(found, [], "{name}={value}");
    }

    // Of environments, as they are marked now.
    let patch = |labels: &[(&str, Option<&str>)]| EnvironmentPatch {
        labels: labels
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned)))
            .collect(),
        ..EnvironmentPatch::default()
    };
    let marked = async |name: &str, value: &str, size| {
        let (mut ids, mut token) = (Vec::new(), None);
        loop {
            let filter = EnvironmentFilter {
                phase: None,
                label: label(name, value),
            };
            let found = given
                .store
                .environments(&one.tenant, &filter, page(size, token))
                .await;
            let found = found.expect("a page");
            ids.extend(found.items.iter().map(|found| found.id.to_string()));
            token = found.next;
            if token.is_none() {
                return ids;
            }
        }
    };
    given.running("three").await;
    for size in [1, 2, 3, 4] {
        assert_eq!(marked("stage", "test", size).await, ["one", "three", "two"]);
    }
    let changed = patch(&[("stage", None), ("run", Some("7"))]);
    given
        .store
        .patch_environment(&two, changed)
        .await
        .expect("patched");
    assert_eq!(marked("stage", "test", 10).await, ["one", "three"]);
    assert_eq!(marked("run", "7", 10).await, ["two"]);
    let delete = given.submit(&two, JobInput::Delete {}).await.job;
    assert_eq!(marked("run", "7", 10).await, ["two"], "it is still there");
    given.carry_out(&delete, EnvironmentEvent::Deleted).await;
    assert_eq!(marked("run", "7", 10).await, [""; 0]);
}
