//! What the settings must keep together, beyond the types of the single keys.

use super::fault::Fault;
use super::{AuthMode, Loaded, QueueKind, RuntimeKind};
use crate::ports::BlobName;
use crate::rabbitmq_queue;
use crate::telemetry;

/// The longest time that a setting may name, in seconds.
const SECONDS_MOST: u64 = 10 * 366 * 24 * 3600;

/// The shortest lease: a heartbeat is written three times in it.
const LEASE_SECONDS_MIN: u64 = 3;

/// Everything that contradicts itself, each named by its key and origin. Empty where all is well.
pub(super) fn faults(loaded: &Loaded) -> Vec<Fault> {
    let mut check = Check {
        loaded,
        faults: Vec::new(),
    };
    check.who_may_call();
    check.defaults_within_maxima();
    check.smallest_values();
    check.times();
    check.texts();
    check.image_of_the_cluster();
    check.cluster_and_its_authority();
    check.broker();
    check.faults
}

struct Check<'a> {
    loaded: &'a Loaded,
    faults: Vec<Fault>,
}

impl Check<'_> {
    fn fault(&mut self, key: &str, message: String) {
        let fault = Fault::of(key, self.loaded.origin(key), message);
        self.faults.push(fault);
    }

    fn who_may_call(&mut self) {
        let settings = &self.loaded.settings;
        let listen = settings.server.listen;
        if settings.auth.mode == AuthMode::None && !listen.ip().is_loopback() {
            let message = format!(
                "none lets everybody run commands, and server.listen ({}) is {listen}, which other machines reach: \
                 listen on 127.0.0.1, or set auth.mode to keys",
                self.loaded.origin("server.listen")
            );
            self.fault("auth.mode", message);
        }
    }

    fn defaults_within_maxima(&mut self) {
        let limits = &self.loaded.settings.limits;
        self.at_most("limits.cpu", limits.cpu, "limits.cpu_max", limits.cpu_max);
        self.at_most(
            "limits.memory",
            limits.memory,
            "limits.memory_max",
            limits.memory_max,
        );
        self.at_most(
            "limits.storage",
            limits.storage,
            "limits.storage_max",
            limits.storage_max,
        );
        self.at_most(
            "limits.exec_timeout_seconds",
            limits.exec_timeout_seconds,
            "limits.exec_timeout_max_seconds",
            limits.exec_timeout_max_seconds,
        );
    }

    fn at_most<T: PartialOrd + std::fmt::Display + Copy>(
        &mut self,
        key: &str,
        value: T,
        maximum_key: &str,
        maximum: T,
    ) {
        if value > maximum {
            let message = format!(
                "{value} is more than {maximum_key} ({}), which is {maximum}: lower the one or raise the other",
                self.loaded.origin(maximum_key)
            );
            self.fault(key, message);
        }
    }

    fn smallest_values(&mut self) {
        let settings = &self.loaded.settings;
        let limits = &settings.limits;
        for (key, value, minimum) in [
            (
                "worker.lease_seconds",
                settings.worker.lease_seconds,
                LEASE_SECONDS_MIN,
            ),
            (
                "server.max_body_bytes",
                settings.server.max_body_bytes,
                1024,
            ),
            (
                "store.retention_days",
                settings.store.retention_days.into(),
                1,
            ),
            (
                "limits.exec_timeout_seconds",
                limits.exec_timeout_seconds,
                1,
            ),
            ("runtime.start_seconds", settings.runtime.start_seconds, 1),
            ("limits.memory", limits.memory.0, 16 << 20),
            ("limits.pids", limits.pids.into(), 16),
            ("limits.output_bytes", limits.output_bytes.0, 64 << 10),
        ] {
            if value < minimum {
                self.fault(key, format!("{value} is too little: at least {minimum}"));
            }
        }
    }

    /// Beyond any use, yet short enough to be added to any point in time.
    fn times(&mut self) {
        let settings = &self.loaded.settings;
        for (key, seconds) in [
            (
                "server.sync_wait_seconds",
                settings.server.sync_wait_seconds,
            ),
            (
                "server.create_wait_seconds",
                settings.server.create_wait_seconds,
            ),
            (
                "limits.exec_timeout_max_seconds",
                settings.limits.exec_timeout_max_seconds,
            ),
            ("runtime.start_seconds", settings.runtime.start_seconds),
            (
                "images.pull_timeout_seconds",
                settings.images.pull_timeout_seconds,
            ),
            ("worker.lease_seconds", settings.worker.lease_seconds),
            ("shutdown.grace_seconds", settings.shutdown.grace_seconds),
        ] {
            if seconds > SECONDS_MOST {
                self.fault(
                    key,
                    format!("{seconds} is too long: at most {SECONDS_MOST}, which is ten years"),
                );
            }
        }
    }

    fn image_of_the_cluster(&mut self) {
        let runtime = &self.loaded.settings.runtime;
        if runtime.kind == RuntimeKind::Kubernetes && runtime.default_image == "host" {
            let message =
                "host is this machine's own, which a cluster does not have: name an image";
            self.fault("runtime.default_image", message.to_owned());
        }
    }

    fn cluster_and_its_authority(&mut self) {
        let runtime = &self.loaded.settings.runtime;
        if !runtime.cluster_endpoint.is_empty() && runtime.cluster_ca.is_empty() {
            let message = "is missing: runtime.cluster_endpoint needs the certificate authority of its cluster";
            self.fault("runtime.cluster_ca", message.to_owned());
        }
    }

    fn broker(&mut self) {
        let queue = &self.loaded.settings.queue;
        if queue.kind != QueueKind::Rabbitmq {
            return;
        }
        let address = rabbitmq_queue::check_url(queue.url.reveal());
        let topic = rabbitmq_queue::check_topic(&queue.topic);
        for (key, checked) in [("queue.url", address), ("queue.topic", topic)] {
            if let Err(error) = checked {
                self.fault(key, error.to_string());
            }
        }
    }

    fn texts(&mut self) {
        let settings = &self.loaded.settings;
        for (key, empty) in [
            (
                "runtime.default_image",
                settings.runtime.default_image.is_empty(),
            ),
            (
                "runtime.binary",
                settings.runtime.binary.as_os_str().is_empty(),
            ),
            ("runtime.namespace", settings.runtime.namespace.is_empty()),
            (
                "registry.agent_name",
                settings.registry.agent_name.is_empty(),
            ),
            ("blobs.bucket", settings.blobs.bucket.is_empty()),
        ] {
            if empty {
                self.fault(key, "must not be empty".to_owned());
            }
        }
        if !settings.blobs.bucket.is_empty()
            && let Err(error) = BlobName::new(settings.blobs.bucket.as_str(), "any")
        {
            self.fault("blobs.bucket", error.to_string());
        }
        if let Err(error) = telemetry::filter(&settings.telemetry.level) {
            self.fault("telemetry.level", error.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Sources, load};

    /// The faults of the settings that these variables make.
    fn faults(variables: &[(&str, &str)]) -> Vec<String> {
        let sources = Sources {
            variables: variables
                .iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            data_dir: Some("/data".into()),
            ..Sources::default()
        };
        match load(&sources) {
            Ok(_) => Vec::new(),
            Err(error) => error.faults.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn each_contradiction_is_found() {
        for (name, value, key) in [
            ("EM_LIMITS__CPU", "65", "limits.cpu_max (default)"),
            ("EM_LIMITS__MEMORY_MAX", "1Mi", "limits.memory (default)"),
            (
                "EM_LIMITS__STORAGE",
                "2Ti",
                "limits.storage (variable EM_LIMITS__STORAGE)",
            ),
            (
                "EM_LIMITS__EXEC_TIMEOUT_SECONDS",
                "86401",
                "limits.exec_timeout_max_seconds",
            ),
            ("EM_LIMITS__EXEC_TIMEOUT_SECONDS", "0", "at least 1"),
            ("EM_WORKER__LEASE_SECONDS", "2", "at least 3"),
            ("EM_SERVER__MAX_BODY_BYTES", "1", "server.max_body_bytes"),
            ("EM_STORE__RETENTION_DAYS", "0", "store.retention_days"),
            ("EM_LIMITS__MEMORY", "1", "limits.memory"),
            ("EM_LIMITS__PIDS", "1", "limits.pids"),
            (
                "EM_SERVER__SYNC_WAIT_SECONDS",
                "9223372036854775807",
                "server.sync_wait_seconds",
            ),
            (
                "EM_LIMITS__EXEC_TIMEOUT_MAX_SECONDS",
                "316224001",
                "limits.exec_timeout_max_seconds",
            ),
            ("EM_BLOBS__BUCKET", "../x", "blobs.bucket"),
            ("EM_RUNTIME__START_SECONDS", "0", "runtime.start_seconds"),
            ("GKE_CLUSTER_ENDPOINT", "10.0.0.1", "runtime.cluster_ca"),
            ("EM_WORKER__WARM", "debian", "worker.warm"),
            ("EM_WORKER__WARM", "debian=1,debian=2", "worker.warm"),
            ("EM_RUNTIME__NODE_SELECTOR", "ssd", "runtime.node_selector"),
            ("EM_RUNTIME__TOLERATIONS", "a:Never", "runtime.tolerations"),
            ("EM_LIMITS__OUTPUT_BYTES", "1", "limits.output_bytes"),
            ("EM_TELEMETRY__LEVEL", "em=loud", "telemetry.level"),
        ] {
            let faults = faults(&[(name, value)]);
            assert!(
                faults.len() == 1 && faults[0].contains(key),
                "{name}={value}: {faults:?}"
            );
        }
    }

    #[test]
    fn everybody_is_let_in_on_loopback_only() {
        let open = ("EM_AUTH__MODE", "none");
        for (listen, good) in [
            ("127.0.0.1:1", true),
            ("[::1]:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("10.0.0.1:1", false),
        ] {
            let faults = faults(&[open, ("EM_SERVER__LISTEN", listen)]);
            assert_eq!(faults.is_empty(), good, "{listen}: {faults:?}");
        }
    }

    #[test]
    fn a_cluster_has_no_image_of_this_machine() {
        let cluster = ("EM_RUNTIME__KIND", "kubernetes");
        assert!(faults(&[cluster]).is_empty());
        let faults = faults(&[cluster, ("EM_RUNTIME__DEFAULT_IMAGE", "host")]);
        assert!(
            faults.len() == 1 && faults[0].contains("runtime.default_image"),
            "{faults:?}"
        );
    }

    #[test]
    fn a_broker_needs_an_address_a_name_and_a_choice() {
        let broker = ("EM_QUEUE__KIND", "rabbitmq");
        assert!(faults(&[broker]).is_empty());
        assert!(faults(&[broker, ("EM_QUEUE__DECLARE", "false")]).is_empty());
        for (name, value, key) in [
            ("EM_QUEUE__URL", "http://ada:hunter2@host", "queue.url"),
            ("EM_QUEUE__URL", "hunter2", "queue.url"),
            ("EM_QUEUE__TOPIC", "a b", "queue.topic"),
            ("EM_QUEUE__DECLARE", "perhaps", "queue.declare"),
        ] {
            let faults = faults(&[broker, (name, value)]);
            assert!(
                faults.len() == 1 && faults[0].contains(key) && !faults[0].contains("hunter2"),
                "{name}={value}: {faults:?}"
            );
        }
    }

    #[test]
    fn no_worker_is_a_choice() {
        assert!(faults(&[("EM_WORKER__CONCURRENCY", "0")]).is_empty());
    }
}
