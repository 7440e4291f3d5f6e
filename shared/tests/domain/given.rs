//! Values that the property tests of the domain begin with.

use jiff::Timestamp;
use shared::admission::JobRequest;
use shared::environment::{Egress, EnvironmentSpec};
use shared::ids::{EnvironmentId, EnvironmentRef, Incarnation, JobId, TenantId, WorkerId};
use shared::job::{Command, ExecInput, JobInput};
use shared::resources::{ByteSize, Cpu, Resources};
use shared::secret::{EnvVars, Secret};

pub(crate) fn environment() -> EnvironmentRef {
    EnvironmentRef {
        tenant: TenantId::default_tenant(),
        environment: EnvironmentId::new("e").expect("an id"),
    }
}

pub(crate) fn job_id(number: u64) -> JobId {
    format!("01920000-0000-7000-8000-{number:012x}")
        .parse()
        .expect("a job id")
}

pub(crate) fn worker(number: u8) -> WorkerId {
    WorkerId::new(format!("worker-{number}")).expect("an id")
}

pub(crate) fn incarnation(number: u64) -> Incarnation {
    Incarnation::new(format!("{number:032x}")).expect("an incarnation")
}

/// A time that grows with the number of steps.
pub(crate) fn time(step: usize) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + i64::try_from(step).expect("few steps")).expect("a time")
}

pub(crate) fn spec() -> EnvironmentSpec {
    EnvironmentSpec {
        image: "host".to_owned(),
        env: EnvVars([("TOKEN".to_owned(), Secret::new("secret"))].into()),
        labels: [].into(),
        resources: Resources {
            cpu: Cpu { millis: 100 },
            memory: ByteSize(1),
            storage: ByteSize(1),
            pids: 1,
        },
        egress: Egress::None,
        workdir: None,
        ttl_seconds: None,
        idle_timeout_seconds: None,
    }
}

pub(crate) fn exec() -> JobInput {
    JobInput::Exec(ExecInput {
        command: Command::Shell("true".to_owned()),
        env: EnvVars::default(),
        workdir: None,
        user: None,
        stdin: None,
        stdin_open: false,
        timeout_seconds: 1,
        output_limit: 1,
    })
}

pub(crate) fn request(number: u64, input: JobInput) -> JobRequest {
    let is_create = matches!(input, JobInput::Create {});
    JobRequest {
        id: job_id(number),
        at: environment(),
        input,
        labels: [].into(),
        spec: is_create.then(spec),
    }
}
