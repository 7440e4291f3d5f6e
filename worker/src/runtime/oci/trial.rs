//! The proof that a machine can hold environments: one is made, spoken to and deleted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use shared::clock::SystemClock;
use shared::environment::{Egress, EnvironmentSpec};
use shared::ids::{EnvironmentId, EnvironmentUid, Generation, InstanceId, TenantId};
use shared::ports::{Lane, Placement, Runtime, RuntimeError};
use shared::resources::{ByteSize, Cpu, Resources};
use shared::secret::EnvVars;

use super::{OciRuntime, OciSettings};
use crate::links::Links;
use crate::reach::Backoff;

/// How often PID 1 is spoken to before it is taken for dead.
const TRIES: u32 = 12;

/// Makes an environment, waits for an answer of its PID 1, and deletes it again, also where that failed. The error says
/// what went wrong. The folder of the settings is the trial's own.
pub async fn trial(settings: &OciSettings) -> Result<(), RuntimeError> {
    let instance = InstanceId::from_random(rand::random());
    let runtime = OciRuntime::open(settings, instance, Arc::new(SystemClock))?;
    let runtime: Arc<dyn Runtime> = Arc::new(runtime);
    let placement =
        placement().map_err(|invalid| RuntimeError::Unsupported(invalid.to_string()))?;
    let tried = match runtime.create(&placement).await {
        Ok(_) => answer(&runtime, &placement.uid).await,
        Err(error) => Err(error),
    };
    let deleted = runtime.delete(&placement.uid).await;
    tried.and(deleted)
}

async fn answer(runtime: &Arc<dyn Runtime>, uid: &EnvironmentUid) -> Result<(), RuntimeError> {
    let links = Links::new(Arc::clone(runtime), Arc::new(SystemClock));
    let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));
    let mut why = String::new();
    for _ in 0..TRIES {
        match links.any(uid, Lane::Control).await {
            Ok(_) => return Ok(()),
            Err(error) => why = error.to_string(),
        }
        backoff.wait().await;
    }
    Err(RuntimeError::Unavailable(why))
}

fn placement() -> Result<Placement, shared::ids::InvalidId> {
    Ok(Placement {
        tenant: TenantId::default_tenant(),
        environment: EnvironmentId::new("trial")?,
        uid: EnvironmentUid::new("trialtrial")?,
        generation: Generation(1),
        spec: EnvironmentSpec {
            image: "host".to_owned(),
            env: EnvVars::default(),
            labels: BTreeMap::new(),
            resources: Resources {
                cpu: Cpu { millis: 1000 },
                memory: ByteSize(256 << 20),
                storage: ByteSize(1 << 30),
                pids: 128,
            },
            egress: Egress::None,
            workdir: None,
            ttl_seconds: None,
            idle_timeout_seconds: None,
        },
    })
}
