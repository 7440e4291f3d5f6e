//! What environments that idle ask of the API server, by its own record.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::site::Site;
use crate::Failure;
use crate::ground::Ground;
use crate::report::{Report, Target};

const ENVIRONMENTS: usize = 5;
const MINUTE: Duration = Duration::from_secs(60);

/// A request that has ended may be written down a little later.
const SETTLED: Duration = Duration::from_secs(3);

pub async fn measure(ground: &Ground, report: &mut Report) -> Result<(), Failure> {
    let site = Site::new(ground).await;
    let Some(log) = site.audit_log() else {
        return Err("this cluster keeps the record of its requests to itself".into());
    };
    let service = site.serve(ground, &[]).await?;
    let ids: Vec<_> = (0..ENVIRONMENTS)
        .map(|number| format!("idle-{number}"))
        .collect();
    for id in &ids {
        service.create(id).await?;
        service.exec(id, &["true"]).await?;
    }
    tokio::time::sleep(SETTLED).await;
    let before = requests(&log, &site)?;
    tokio::time::sleep(MINUTE).await;
    let asked = requests(&log, &site)?.difference(&before).count();
    report.figure(
        "requests to the API server per idle environment and minute, watches not counted",
        asked as f64 / ENVIRONMENTS as f64,
        "",
        Target::AtMost(0.0),
        &format!(
            "{ENVIRONMENTS} environments with a live channel, 60 s, by the API server's audit log"
        ),
    );
    for id in &ids {
        service.delete(id).await?;
    }
    service.stop().await
}

/// The requests about the namespace so far, each once however long it takes. Whoever asks, it is about an environment:
/// nobody else uses the namespace.
fn requests(log: &Path, site: &Site) -> Result<BTreeSet<String>, Failure> {
    let own = format!("/namespaces/{}/", site.namespace.name());
    let record = std::fs::read_to_string(log)?;
    let mut requests = BTreeSet::new();
    for line in record.lines().filter(|line| line.contains(&own)) {
        let event: Value = serde_json::from_str(line)?;
        if event["verb"] != "watch" {
            let id = event["auditID"].as_str().ok_or("an event without an id")?;
            requests.insert(id.to_owned());
        }
    }
    Ok(requests)
}
