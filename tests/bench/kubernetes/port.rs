//! The adapter by itself: the `Runtime` port and the runner's protocol, without the service.

use std::sync::Arc;

use shared::clock::SystemClock;
use shared::config::RuntimeSettings;
use shared::ids::InstanceId;
use shared::ports::Runtime;
use tests::cluster::SMALL_IMAGE;
use tests::conformance::runtime::{Bed, Does, Given};
use worker::runtime::kubernetes::access::{self, Access, AccessSettings};
use worker::runtime::kubernetes::{KubernetesRuntime, KubernetesSettings};

use super::site::Site;
use crate::Failure;

/// The clients that the worker has.
pub async fn access(site: &Site) -> Result<Access, Failure> {
    let settings = AccessSettings {
        kubeconfig: Some(site.kubeconfig().to_owned()),
        ..AccessSettings::default()
    };
    Ok(access::connect(&settings).await?)
}

/// The adapter on the site's namespace.
pub async fn open(site: &Site) -> Result<Given, Failure> {
    let settings = KubernetesSettings {
        namespace: site.namespace.name().to_owned(),
        ..KubernetesSettings::new(&RuntimeSettings::default())
    };
    let instance = InstanceId::from_random(rand::random());
    let clock = Arc::new(SystemClock);
    let adapter = KubernetesRuntime::open(access(site).await?, settings, instance, clock);
    adapter.check().await?;
    let runtime: Arc<dyn Runtime> = Arc::new(adapter);
    Ok(Given::new(Bed {
        foreign: Arc::clone(&runtime),
        runtime,
        image: SMALL_IMAGE.to_owned(),
        does: Does {
            keep_records: false,
            count_ooms_by_job: false,
            filter_calls: true,
            outlive_ooms: true,
        },
    }))
}
