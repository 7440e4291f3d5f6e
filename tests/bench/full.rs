//! A command in a service whose store holds a hundred thousand finished jobs, against the same in one whose store is
//! empty.

use std::path::Path;
use std::sync::Arc;

use shared::clock::SystemClock;
use shared::job::{JobInput, Outcome};
use shared::ports::Store;
use shared::sqlite::SqliteStore;
use tests::conformance::store::given::{Given, completion, environment, exec_input, result_of};

use crate::Failure;
use crate::ground::{Ground, WARM_UP};
use crate::report::{Report, Samples, Target, timed};
use crate::service::Service;

const JOBS: usize = 100_000;
const WRITERS: usize = 100;
const ROUNDS: usize = 300;

pub async fn measure(ground: &Ground, report: &mut Report) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let jobs = ground.amount(JOBS);
    fill(folder.path(), jobs).await?;
    let full = Service::start_in(folder, &ground.program, &[]).await?;
    let empty = Service::start(&ground.program, &[]).await?;
    for service in [&full, &empty] {
        service.create("bench").await?;
    }
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    for round in 0..ground.rounds(ROUNDS) + WARM_UP {
        for (service, samples) in [(&full, &mut ours), (&empty, &mut theirs)] {
            let took = timed(service.exec("bench", &["true"])).await?;
            if round >= WARM_UP {
                samples.push(took);
            }
        }
    }
    report.ratio(
        &format!("`POST …/exec` with {jobs} finished jobs in the store"),
        &ours,
        "with none",
        &theirs,
        Target::AtMost(1.1),
    );
    for service in [full, empty] {
        service.delete("bench").await?;
        service.stop().await?;
    }
    Ok(())
}

/// Finished jobs on an environment that was deleted, written as the service writes them.
async fn fill(folder: &Path, jobs: usize) -> Result<(), Failure> {
    let path = folder.join("environment-manager.db");
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&path, &SystemClock)?);
    let given = Given::at_present(store);
    let at = environment("filled");
    given.run(&at).await;
    let writers = (0..WRITERS).map(|_| {
        let (given, at) = (given.clone(), at.clone());
        tokio::spawn(async move {
            for _ in 0..jobs / WRITERS {
                let job = given.submit(&at, exec_input("true")).await.job;
                let leased = given.lease(&job).await.job;
                let end = completion(Outcome::success(result_of("done\n")));
                given.finish(&leased, end).await;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await?;
    }
    let delete = given.submit(&at, JobInput::Delete {}).await.job;
    given
        .carry_out(&delete, shared::environment::EnvironmentEvent::Deleted)
        .await;
    Ok(())
}
