//! Tenants never see each other, by any method.

use shared::admission::Refusal;
use shared::environment::EnvironmentEvent;
use shared::ids::{JobRef, TenantId};
use shared::job::{Begun, JobInput, JobState, Outcome};
use shared::output::{Offsets, Stream};
use shared::ports::{EnvironmentFilter, JobFilter, LeaseAttempt, StoreError, SubmitError};

use super::given::{
    Given, cancel_request, chunk, completion, environment_of, exec_input, key, page, result_of,
};
use super::leases::artifact_of;

pub(super) async fn tenants_never_see_each_other(given: &Given) {
    let [mine, theirs] = ["mine", "theirs"].map(|name| TenantId::new(name).expect("a tenant"));
    let (my_environment, their_environment) =
        (environment_of(&mine, "e"), environment_of(&theirs, "e"));
    given.run(&my_environment).await;
    let job = given
        .submit_keyed(&my_environment, exec_input("true"), key("k", "s", 1))
        .await
        .expect("accepted")
        .job;
    let job = given.lease(&job).await.job;
    let output = vec![chunk(Stream::Stdout, 0, "secret")];
    given
        .store
        .append_output(&job.at(), job.fence, output)
        .await
        .expect("appended");
    let published = given.exec(&my_environment).await;
    let published = given.lease(&published).await.job;
    let artifact = artifact_of(given, &published, "object");
    let mut end = completion(Outcome::success(result_of("")));
    end.artifact = Some(artifact.clone());
    given.finish(&published, end).await;
    let (before, environment) = (
        given.job(&job).await,
        given.environment(&my_environment).await,
    );

    let store = &given.store;
    let as_theirs = JobRef {
        tenant: theirs.clone(),
        job: job.id,
    };
    assert!(store.job(&as_theirs).await.expect("works").is_none());
    assert!(
        store
            .environment(&their_environment)
            .await
            .expect("works")
            .is_none()
    );
    assert!(
        store
            .artifact(&theirs, &artifact.id)
            .await
            .expect("works")
            .is_none()
    );
    assert!(
        store
            .open_jobs(&their_environment)
            .await
            .expect("works")
            .is_empty()
    );
    assert!(
        store
            .output(&as_theirs, Offsets::default(), 99)
            .await
            .expect("works")
            .is_empty()
    );
    assert_eq!(
        store.output_end(&as_theirs).await.expect("works"),
        Offsets::default()
    );
    let jobs = store
        .jobs(&theirs, &JobFilter::default(), page(9, None))
        .await
        .expect("a page");
    assert!(jobs.items.is_empty());
    let of_environment = JobFilter {
        environment: Some(my_environment.environment.clone()),
        ..JobFilter::default()
    };
    let jobs = store
        .jobs(&theirs, &of_environment, page(9, None))
        .await
        .expect("a page");
    assert!(jobs.items.is_empty());
    let environments = store
        .environments(&theirs, &EnvironmentFilter::default(), page(9, None))
        .await;
    assert!(environments.expect("a page").items.is_empty());
    assert!(
        store
            .artifacts(&theirs, page(9, None))
            .await
            .expect("a page")
            .items
            .is_empty()
    );

    assert!(matches!(
        given.try_lease(&as_theirs, "thief").await,
        LeaseAttempt::Ended
    ));
    let writes = [
        store
            .append_output(&as_theirs, job.fence, vec![chunk(Stream::Stdout, 6, "x")])
            .await
            .err(),
        store
            .hand_back(&as_theirs, job.fence, Begun::Perhaps, given.now())
            .await
            .err(),
        store
            .finish(
                &as_theirs,
                job.fence,
                completion(Outcome::success(result_of(""))),
                given.now(),
            )
            .await
            .err(),
    ];
    assert!(
        writes
            .iter()
            .all(|write| matches!(write, Some(StoreError::Fenced))),
        "{writes:?}"
    );
    let cancelled = store
        .cancel(&as_theirs, cancel_request("x"), given.now())
        .await;
    assert!(cancelled.expect("works").is_none());
    let event = EnvironmentEvent::Note(shared::environment::Reason::new("x", "y"));
    store
        .environment_event(
            &their_environment,
            environment.generation,
            event,
            given.now(),
        )
        .await
        .expect("works");
    let refused = given
        .try_submit(&their_environment, exec_input("true"))
        .await;
    assert!(matches!(
        refused,
        Err(SubmitError::Refused(Refusal::NoSuchEnvironment(_)))
    ));
    assert_eq!(given.job(&job).await, before);
    assert_eq!(given.environment(&my_environment).await, environment);

    given.run(&their_environment).await;
    let own = given
        .submit_keyed(&their_environment, exec_input("true"), key("k", "s", 2))
        .await
        .expect("keys are each tenant's own");
    assert!(!own.replayed && own.publish);
    let delete = given
        .submit(&their_environment, JobInput::Delete {})
        .await
        .job;
    given.carry_out(&delete, EnvironmentEvent::Deleted).await;
    assert_eq!(given.environment(&my_environment).await, environment);
    assert_eq!(given.job(&job).await.state, JobState::Running);
}
