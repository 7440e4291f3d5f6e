//! A worker that does nothing but hold one environment, to be killed by a test.
//!
//! `runtime_holder FOLDER INSTANCE UID create` creates it, says `created`, and waits. With `cycle` it says `ready`, then
//! creates, stops, starts and deletes it for ever, and says `round` after each time. With `keep` it holds two of the same
//! ready and says `kept`, with `drop` none; with `warm-cycle` it does all of that for ever.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use shared::clock::SystemClock;
use shared::environment::{Egress, EnvironmentSpec};
use shared::ids::{EnvironmentId, EnvironmentUid, Generation, InstanceId, TenantId};
use shared::ports::{Placement, Runtime, RuntimeError, Warm};
use shared::resources::{ByteSize, Cpu, Resources};
use shared::secret::EnvVars;
use worker::runtime::oci::{OciRuntime, OciSettings};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, instance, uid, what] = arguments.as_slice() else {
        return Err("FOLDER INSTANCE UID create|cycle|keep|drop|warm-cycle".into());
    };
    let mut settings = OciSettings::new(folder);
    if let Some(binary) = std::env::var_os("TEST_OCI_RUNTIME") {
        settings.binary = binary.into();
    }
    let instance = InstanceId::new(instance.as_str())?;
    let runtime = OciRuntime::open(&settings, instance, Arc::new(SystemClock))?;
    let placement = placement(EnvironmentUid::new(uid.as_str())?)?;
    let warm = |count| {
        let spec = placement.spec.clone();
        [Warm { spec, count }]
    };
    match what.as_str() {
        "keep" => {
            runtime.keep_warm(&warm(2)).await?;
            println!("kept");
            return std::future::pending().await;
        }
        "drop" => {
            runtime.keep_warm(&[]).await?;
            println!("kept");
            return std::future::pending().await;
        }
        "warm-cycle" => {
            println!("ready");
            loop {
                runtime.keep_warm(&warm(2)).await?;
                runtime.create(&placement).await?;
                runtime.keep_warm(&warm(1)).await?;
                runtime.delete(&placement.uid).await?;
            }
        }
        _ => {}
    }
    if what == "create" {
        runtime.create(&placement).await?;
        println!("created");
        return std::future::pending().await;
    }
    println!("ready");
    loop {
        runtime.create(&placement).await?;
        runtime.stop(&placement.uid, Duration::from_secs(1)).await?;
        match runtime.start(&placement).await {
            // Another holder has deleted it meanwhile.
            Ok(_) | Err(RuntimeError::VolumeMissing) => {}
            Err(error) => return Err(error.into()),
        }
        runtime.delete(&placement.uid).await?;
        println!("round");
    }
}

fn placement(uid: EnvironmentUid) -> Result<Placement, Box<dyn Error>> {
    Ok(Placement {
        tenant: TenantId::default_tenant(),
        environment: EnvironmentId::new("held")?,
        uid,
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
