//! A command whose environment cannot be reached by any way: nobody can end it, and nobody knows how it ended. It is `lost`,
//! but only long after its deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::sys::signal::{Signal, kill};
use shared::job::{JobInput, JobState};
use tests::conformance::store::given::exec_input;
use tests::program::wait_until;
use tests::site::{Asked, Refusing, Site};

/// Of the command, in seconds: far beyond what the test takes, so that its end is never due by the machine's own clock.
const TIMEOUT: u64 = 3600;

/// How long after the deadline contact is looked for, in seconds.
const LOOKED_FOR: u64 = 600;

/// Between the two signals at a deadline, and some more, in seconds.
const SOME: u64 = 60;

#[tokio::test(flavor = "multi_thread")]
async fn a_command_without_contact_is_lost_long_after_its_deadline() {
    let mut site = Site::new().await;
    let (cut_off, asked) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let runtime = Refusing::new(Arc::clone(&site.runtime), {
        let (cut_off, asked) = (Arc::clone(&cut_off), Arc::clone(&asked));
        move |what, _| {
            asked.fetch_add(usize::from(what == Asked::Dial), Ordering::SeqCst);
            cut_off.load(Ordering::SeqCst)
        }
    });
    site.work(Arc::new(runtime));
    let at = site.running("env").await;
    let mut input = exec_input("echo here; sleep 4711");
    let JobInput::Exec(exec) = &mut input else {
        unreachable!()
    };
    exec.timeout_seconds = TIMEOUT;
    let job = site.submit(&at, input).await;
    wait_until("its output is in the store", async || {
        site.store().output_end(&job).await.expect("works").stdout == 5
    })
    .await;
    // The way to the environment goes, and the connection with it.
    cut_off.store(true, Ordering::SeqCst);
    kill(site.folder.first_process(), Signal::SIGKILL).expect("killed");
    let until_looked_for = async || {
        let before = asked.load(Ordering::SeqCst);
        wait_until("it is looked for", async || {
            asked.load(Ordering::SeqCst) >= before + 2
        })
        .await;
    };
    until_looked_for().await;
    site.clock.by(TIMEOUT + LOOKED_FOR - SOME);
    until_looked_for().await;
    assert_eq!(site.job(&job).await.state, JobState::Running);
    site.clock.by(2 * SOME);
    let ended = site.ended(&job).await;
    assert_eq!(ended.state, JobState::Lost, "{ended:?}");
    let error = ended.error.expect("why");
    assert_eq!(error.code, "no_contact", "{error:?}");
    assert!(ended.output.incomplete);
    assert_eq!(ended.output.stdout.total, 5);
    assert!(ended.result.is_none(), "nobody knows how it ended");
    site.end().await;
}
