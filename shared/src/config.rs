//! The settings: one small struct per section, its defaults beside it.
//!
//! ```text
//! defaults < file < names of existing deployments < EM_SECTION__KEY < flags
//! ```
//!
//! The sections are plain data. [`load`] merges them, keeps where each value came from ([`Origin`]) and checks them
//! together, before anything starts: an unknown key, a value of the wrong type and a contradiction are each a [`Fault`]
//! that names the key and its origin. [`Loaded`] shows itself as TOML in which no secret stands.

mod check;
mod doubts;
mod fault;
mod file;
mod keys;
mod kubernetes;
mod layers;
mod load;
mod place;
mod show;
mod variables;
mod warm;

pub use fault::{ConfigError, Fault, Origin};
pub use keys::known as known_keys;
pub use kubernetes::{NodeSelector, PodSecurity, Toleration, Tolerations};
pub use load::{Loaded, Sources, load};
pub use warm::{WarmImage, WarmImages};

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cidr::Cidr;
use crate::resources::{ByteSize, Cpu};
use crate::secret::Secret;

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The HTTP side.
    pub server: ServerSettings,
    /// Who may call.
    pub auth: AuthSettings,
    /// Where the truth is kept.
    pub store: StoreSettings,
    /// Where hints wait.
    pub queue: QueueSettings,
    /// Where large bytes are.
    pub blobs: BlobSettings,
    /// What holds environments.
    pub runtime: RuntimeSettings,
    /// Which images can be had.
    pub images: ImageSettings,
    /// What an environment with a network may reach.
    pub network: NetworkSettings,
    /// What an environment and a command may use.
    pub limits: LimitSettings,
    /// How jobs are taken.
    pub worker: WorkerSettings,
    /// How this service is known to others.
    pub registry: RegistrySettings,
    /// How it stops.
    pub shutdown: ShutdownSettings,
    /// What it tells of itself.
    pub telemetry: TelemetrySettings,
}

/// Section `server`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSettings {
    /// Address of the API.
    pub listen: SocketAddr,
    /// Seconds that the original endpoints and file routes wait for their job.
    pub sync_wait_seconds: u64,
    /// Seconds that the original create waits.
    pub create_wait_seconds: u64,
    /// Bytes of a JSON body at most. File content is streamed and not bound by it.
    pub max_body_bytes: u64,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            sync_wait_seconds: 55,
            create_wait_seconds: 170,
            max_body_bytes: 32 << 20,
        }
    }
}

/// Who is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMode {
    /// Callers with a key.
    Keys,
    /// Everybody: for a loopback address only.
    None,
}

/// Section `auth`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthSettings {
    /// Who is let in.
    pub mode: AuthMode,
    /// The file that holds the key in clear; `<data-dir>/api-key` where it is not set.
    pub keys_file: Option<PathBuf>,
}

impl Default for AuthSettings {
    fn default() -> Self {
        Self {
            mode: AuthMode::Keys,
            keys_file: None,
        }
    }
}

/// Which store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// A SQLite file in the data folder.
    Sqlite,
}

/// Section `store`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSettings {
    /// Which store.
    pub kind: StoreKind,
    /// Days that ended jobs are kept.
    pub retention_days: u32,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            kind: StoreKind::Sqlite,
            retention_days: 30,
        }
    }
}

/// Which queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueKind {
    /// Inside the process.
    Embedded,
    /// Quorum queues of a RabbitMQ broker.
    Rabbitmq,
}

/// Section `queue`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueueSettings {
    /// Which queue.
    pub kind: QueueKind,
    /// RabbitMQ: where the broker is, with user, password and virtual host.
    pub url: Secret,
    /// What the names of the queues begin with.
    pub topic: String,
    /// Whether missing queues are made. Else they are checked.
    pub declare: bool,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            kind: QueueKind::Embedded,
            url: Secret::new("amqp://127.0.0.1:5672/%2f"),
            topic: "environment-manager".to_owned(),
            declare: true,
        }
    }
}

/// Which blob store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlobKind {
    /// A folder in the data folder.
    Directory,
}

/// Section `blobs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BlobSettings {
    /// Which blob store.
    pub kind: BlobKind,
    /// The bucket of artifacts whose publish names none.
    pub bucket: String,
}

impl Default for BlobSettings {
    fn default() -> Self {
        Self {
            kind: BlobKind::Directory,
            bucket: "artifacts".to_owned(),
        }
    }
}

/// Which runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuntimeKind {
    /// An OCI runtime on this machine.
    Oci,
    /// A Kubernetes cluster.
    Kubernetes,
}

/// Whether the worker becomes root of a user namespace before it makes environments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rootless {
    /// Where it is not root.
    Auto,
    /// It does, and refuses to start as root.
    True,
    /// It does not, and refuses to start where it is not root.
    False,
}

/// Section `runtime`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuntimeSettings {
    /// Which runtime.
    pub kind: RuntimeKind,
    /// The image of environments that ask for none.
    pub default_image: String,
    /// The OCI runtime's program: a name on the PATH or a path.
    pub binary: PathBuf,
    /// Whether environments are made in a user namespace of an ordinary user.
    pub rootless: Rootless,
    /// Kubernetes: kubeconfig files with colons between; the pod's own account or the user's file where it is empty.
    pub kubeconfig: String,
    /// Kubernetes: the address of a GKE control plane, reached with Google credentials; none where it is empty.
    pub cluster_endpoint: String,
    /// Kubernetes: the certificate authority of that address: PEM, or base64 of PEM.
    pub cluster_ca: String,
    /// Kubernetes: the namespace of all pods and claims.
    pub namespace: String,
    /// Kubernetes: the class of the claims; the cluster's default where it is empty.
    pub storage_class: String,
    /// Kubernetes: the runtime class of the pods, such as gVisor's; the cluster's default where it is empty.
    pub runtime_class: String,
    /// Kubernetes: the account that the pods run as, whose token they do not get; the namespace's default where it is
    /// empty.
    pub service_account: String,
    /// Kubernetes: which nodes the pods may run on.
    pub node_selector: NodeSelector,
    /// Kubernetes: which taints of nodes the pods tolerate.
    pub tolerations: Tolerations,
    /// Kubernetes: the secret with which images are pulled; none where it is empty.
    pub image_pull_credentials: String,
    /// Kubernetes: the priority class of the pods; the cluster's default where it is empty.
    pub priority_class: String,
    /// Kubernetes: what the pods may do.
    pub security: PodSecurity,
    /// Kubernetes: the image that holds the runner; the one of this version where it is empty.
    pub runner_image: String,
    /// Kubernetes: seconds that a pod may wait to be scheduled, get its volume, pull its image and start.
    pub start_seconds: u64,
}

impl Default for RuntimeSettings {
    fn default() -> Self {
        Self {
            kind: RuntimeKind::Oci,
            default_image: "host".to_owned(),
            binary: PathBuf::from("runc"),
            rootless: Rootless::Auto,
            kubeconfig: String::new(),
            cluster_endpoint: String::new(),
            cluster_ca: String::new(),
            namespace: "default".to_owned(),
            storage_class: String::new(),
            runtime_class: String::new(),
            service_account: String::new(),
            node_selector: NodeSelector::default(),
            tolerations: Tolerations::default(),
            image_pull_credentials: String::new(),
            priority_class: String::new(),
            security: PodSecurity::Restricted,
            runner_image: String::new(),
            start_seconds: 600,
        }
    }
}

/// Section `images`: images that are not this machine's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImageSettings {
    /// Registries that may be asked; `*` for all.
    pub registries: Vec<String>,
    /// Registries that are spoken to without TLS.
    pub plain_http: Vec<String>,
    /// The file with the credentials for registries, as `skopeo login` writes it; empty for none.
    pub auth_file: PathBuf,
    /// Folders below which callers may name layouts and archives.
    pub folders: Vec<PathBuf>,
    /// Bytes of an image at most, packed and unpacked.
    pub max_bytes: ByteSize,
    /// Seconds that fetching, and then unpacking, may take.
    pub pull_timeout_seconds: u64,
    /// Days without use after which an image is removed.
    pub unused_days: u32,
}

impl Default for ImageSettings {
    fn default() -> Self {
        Self {
            registries: [
                "docker.io",
                "gcr.io",
                "ghcr.io",
                "mcr.microsoft.com",
                "public.ecr.aws",
                "quay.io",
            ]
            .map(str::to_owned)
            .into(),
            plain_http: Vec::new(),
            auth_file: PathBuf::new(),
            folders: Vec::new(),
            max_bytes: ByteSize(10 << 30),
            pull_timeout_seconds: 900,
            unused_days: 14,
        }
    }
}

/// Section `network`: exceptions to what an environment with egress `internet` may reach.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkSettings {
    /// Private networks that may be reached all the same; never the machine itself.
    pub allowed: Vec<Cidr>,
    /// Networks of the internet that may not be reached.
    pub denied: Vec<Cidr>,
}

/// Section `limits`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// Processor time of an environment that asks for none.
    pub cpu: Cpu,
    /// At most.
    pub cpu_max: Cpu,
    /// Memory of an environment that asks for none.
    pub memory: ByteSize,
    /// At most.
    pub memory_max: ByteSize,
    /// Volume of an environment that asks for none.
    pub storage: ByteSize,
    /// At most.
    pub storage_max: ByteSize,
    /// Processes and threads of an environment.
    pub pids: u32,
    /// Seconds that a command may run if it asks for nothing.
    pub exec_timeout_seconds: u64,
    /// At most.
    pub exec_timeout_max_seconds: u64,
    /// Bytes of output kept per job.
    pub output_bytes: ByteSize,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            cpu: Cpu { millis: 1000 },
            cpu_max: Cpu { millis: 64_000 },
            memory: ByteSize(1 << 30),
            memory_max: ByteSize(256 << 30),
            storage: ByteSize(10 << 30),
            storage_max: ByteSize(1 << 40),
            pids: 1024,
            exec_timeout_seconds: 3600,
            exec_timeout_max_seconds: 24 * 3600,
            output_bytes: ByteSize(1 << 30),
        }
    }
}

/// Section `worker`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerSettings {
    /// Jobs at a time, lifecycle jobs not counted; 0 takes none.
    pub concurrency: u32,
    /// Seconds without a heartbeat after which a worker's jobs are taken over.
    pub lease_seconds: u64,
    /// Environments that are held ready.
    pub warm: WarmImages,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            concurrency: 256,
            lease_seconds: 30,
            warm: WarmImages::default(),
        }
    }
}

/// Section `registry`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistrySettings {
    /// The name under which this service is known to others; it stands in artifacts.
    pub agent_name: String,
}

impl Default for RegistrySettings {
    fn default() -> Self {
        Self {
            agent_name: "environment-manager".to_owned(),
        }
    }
}

/// Section `shutdown`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShutdownSettings {
    /// Seconds to finish requests and hand back jobs.
    pub grace_seconds: u64,
}

impl Default for ShutdownSettings {
    fn default() -> Self {
        Self { grace_seconds: 10 }
    }
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Section `telemetry`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetrySettings {
    /// How logs are written.
    pub log: LogFormat,
    /// Which logs: `error`, `warn`, `info`, `debug`, `trace`, or a filter per module.
    pub level: String,
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self {
            log: LogFormat::Auto,
            level: "info".to_owned(),
        }
    }
}
