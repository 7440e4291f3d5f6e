//! A command in a live environment: at the port and over HTTP, against a new exec by kube-rs and by `kubectl`.

use tests::conformance::runtime::given::{Lodging, Session};

use super::site::Site;
use super::{bare, port};
use crate::Failure;
use crate::ground::{Ground, WARM_UP};
use crate::report::{Report, Samples, Target, timed};

const ROUNDS: usize = 100;

pub async fn measure(ground: &Ground, report: &mut Report) -> Result<(), Failure> {
    let site = Site::new(ground).await;
    let service = site.serve(ground, &[]).await?;
    service.create("bench").await?;
    let (pods, pod) = (site.pods(), site.pod_of("bench").await?);
    let kubectl = site.kubectl().await?;
    let given = port::open(&site).await?;
    let lodging = given.environment().await;
    let mut live = lodging.session().await;

    let mut samples: [Samples; 5] = Default::default();
    for round in 0..ground.rounds(ROUNDS) + WARM_UP {
        let took = [
            timed(at_port(&mut live)).await?,
            timed(on_new_channel(&lodging)).await?,
            timed(service.exec("bench", &["true"])).await?,
            timed(bare::exec_true(&pods, &pod)).await?,
            kubectl.run(&["exec", &pod, "--", "true"])?,
        ];
        if round >= WARM_UP {
            for (samples, took) in samples.iter_mut().zip(took) {
                samples.push(took);
            }
        }
    }
    rows(report, &samples);
    given.clear().await;
    service.delete("bench").await?;
    service.stop().await
}

fn rows(report: &mut Report, samples: &[Samples; 5]) {
    let [live, new, http, bare, kubectl] = samples;
    let by_kube = "a new `pods/exec` by kube-rs";
    let at_port = "command on a live channel, at the `Runtime` port";
    report.ratio(at_port, live, by_kube, bare, Target::AtMost(0.1));
    report.ratio(
        at_port,
        live,
        "`kubectl exec`",
        kubectl,
        Target::AtMost(0.05),
    );
    report.ratio(
        "`POST …/exec` of `true` with `Prefer: wait`",
        http,
        by_kube,
        bare,
        Target::AtMost(0.3),
    );
    report.ratio(
        "first command, on a new channel, at the `Runtime` port",
        new,
        by_kube,
        bare,
        Target::AtMost(1.2),
    );
}

async fn at_port(session: &mut Session) -> Result<(), Failure> {
    match session.run("true").await.code() {
        Some(0) => Ok(()),
        other => Err(format!("`true` ended with {other:?}").into()),
    }
}

async fn on_new_channel(lodging: &Lodging) -> Result<(), Failure> {
    at_port(&mut lodging.session().await).await
}
