//! Merges the sources into the effective settings.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use super::fault::{ConfigError, Origin};
use super::layers::Layers;
use super::{RuntimeKind, Settings, check, file, place, variables};

/// The image of environments on a cluster that ask for none, where none is set.
const CLUSTER_IMAGE: &str = "python:3-slim";

/// All that settings are made of, besides the defaults.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// `--config`: a TOML file. Without it none is read.
    pub file: Option<PathBuf>,
    /// The variables of the process.
    pub variables: BTreeMap<OsString, OsString>,
    /// `--listen`.
    pub listen: Option<String>,
    /// `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// Whether the process is root's, whose data has another place.
    pub superuser: bool,
}

/// The effective settings: complete, checked, each with its origin.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values. `auth.keys_file` is always set here, and `runtime.default_image` is one that the runtime has.
    pub settings: Settings,
    /// The data folder, absolute.
    pub data_dir: PathBuf,
    pub(super) data_dir_origin: Origin,
    pub(super) origins: BTreeMap<String, Origin>,
}

impl Loaded {
    /// What is likely to fail later, though it can be used: a line each.
    pub fn doubts(&self) -> Vec<String> {
        super::doubts::of(self)
    }

    /// Where the value of `section.key` came from.
    pub fn origin(&self, key: &str) -> &Origin {
        self.origins.get(key).unwrap_or(&Origin::Default)
    }
}

/// Reads, merges and checks the sources. Touches nothing but the settings file.
///
/// The error holds everything that is wrong, not the first thing only.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let mut layers = Layers::default();
    if let Some(path) = &sources.file {
        file::read(path, &mut layers);
    }
    variables::read(&sources.variables, &mut layers);
    if let Some(listen) = &sources.listen {
        layers.put_text("server.listen", listen, Origin::Flag("--listen"));
    }
    let place = place::data_dir(sources);
    layers.faults.extend(place.clone().err());
    let (mut settings, origins) = layers.finish()?;
    let (data_dir, data_dir_origin) = place?;
    settings
        .auth
        .keys_file
        .get_or_insert_with(|| data_dir.join("api-key"));
    if settings.runtime.kind == RuntimeKind::Kubernetes
        && origins.get("runtime.default_image") == Some(&Origin::Default)
    {
        CLUSTER_IMAGE.clone_into(&mut settings.runtime.default_image);
    }
    let loaded = Loaded {
        settings,
        data_dir,
        data_dir_origin,
        origins,
    };
    match check::faults(&loaded) {
        faults if faults.is_empty() => Ok(loaded),
        faults => Err(ConfigError { faults }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AuthMode, Rootless};

    /// Sources with a place for data, these variables, and this file if it is not empty.
    fn sources(folder: &tempfile::TempDir, file: &str, variables: &[(&str, &str)]) -> Sources {
        let path = folder.path().join("em.toml");
        std::fs::write(&path, file).expect("the file is written");
        Sources {
            file: Some(path),
            variables: variables
                .iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            data_dir: Some("/data".into()),
            ..Sources::default()
        }
    }

    fn faults(file: &str, variables: &[(&str, &str)]) -> Vec<String> {
        let folder = tempfile::tempdir().expect("a folder");
        match load(&sources(&folder, file, variables)) {
            Ok(loaded) => panic!("accepted: {:?}", loaded.settings),
            Err(error) => error.faults.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn nothing_at_all_gives_the_defaults() {
        let sources = Sources {
            data_dir: Some("/data".into()),
            ..Sources::default()
        };
        let loaded = load(&sources).expect("loads");
        let mut defaults = Settings::default();
        defaults.auth.keys_file = Some("/data/api-key".into());
        assert_eq!(loaded.settings, defaults);
        assert_eq!(loaded.origin("server.listen"), &Origin::Default);
    }

    #[test]
    fn a_later_source_wins_and_is_remembered() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = "[server]\nlisten = \"127.0.0.2:1\"\nmax_body_bytes = 9000\n[limits]\ncpu = 2\n";
        let mut sources = sources(&folder, file, &[]);
        let listen = |sources: &Sources| {
            let loaded = load(sources).expect("loads");
            let origin = loaded.origin("server.listen").clone();
            (loaded.settings.server.listen.to_string(), origin)
        };
        let file = Origin::File(folder.path().join("em.toml"));
        assert_eq!(listen(&sources), ("127.0.0.2:1".to_owned(), file));
        for (name, value, expected) in [
            ("PORT", "7", "127.0.0.2:7"),
            ("EM_SERVER__LISTEN", "127.0.0.3:3", "127.0.0.3:3"),
        ] {
            sources.variables.insert(name.into(), value.into());
            let origin = Origin::Variable(name.to_owned());
            assert_eq!(listen(&sources), (expected.to_owned(), origin));
        }
        sources.listen = Some("127.0.0.4:4".to_owned());
        let flag = Origin::Flag("--listen");
        assert_eq!(listen(&sources), ("127.0.0.4:4".to_owned(), flag));
        let settings = load(&sources).expect("loads").settings;
        assert_eq!(settings.server.max_body_bytes, 9000);
        assert_eq!(settings.limits.cpu.millis, 2000);
    }

    #[test]
    fn variables_have_the_type_of_their_key_and_count_only_if_filled() {
        let folder = tempfile::tempdir().expect("a folder");
        let variables = [
            ("EM_WORKER__CONCURRENCY", "0"),
            ("EM_LIMITS__MEMORY", "512Mi"),
            ("EM_AUTH__MODE", "none"),
            ("EM_AUTH__KEYS_FILE", "/keys"),
            ("EM_STORE__KIND", ""),
            ("AGENT_NAME", "ada"),
            ("DEV_ENV_BASE_IMAGE", "python:3"),
            ("KUBERNETES_NAMESPACE", "environments"),
            ("KUBECONFIG", "/a:/b"),
            ("GKE_CLUSTER_ENDPOINT", "10.0.0.1"),
            ("GKE_SSL_CA_CERT", "LS0t"),
            ("EM_DATA_DIR", "/elsewhere"),
            ("EMPTY", ""),
        ];
        let settings = load(&sources(&folder, "", &variables))
            .expect("loads")
            .settings;
        assert_eq!(settings.worker.concurrency, 0);
        assert_eq!(settings.limits.memory.0, 512 << 20);
        assert_eq!(settings.auth.mode, AuthMode::None);
        assert_eq!(settings.auth.keys_file, Some("/keys".into()));
        assert_eq!(settings.registry.agent_name, "ada");
        assert_eq!(settings.runtime.default_image, "python:3");
        assert_eq!(settings.runtime.namespace, "environments");
        assert_eq!(settings.runtime.kubeconfig, "/a:/b");
        assert_eq!(settings.runtime.kind, RuntimeKind::Kubernetes);
        assert_eq!(settings.runtime.cluster_endpoint, "10.0.0.1");
        assert_eq!(settings.runtime.cluster_ca, "LS0t");
    }

    #[test]
    fn a_word_may_be_a_truth() {
        let folder = tempfile::tempdir().expect("a folder");
        for (file, variables, expected) in [
            ("", &[][..], Rootless::Auto),
            ("[runtime]\nrootless = true", &[], Rootless::True),
            ("[runtime]\nrootless = \"false\"", &[], Rootless::False),
            ("", &[("EM_RUNTIME__ROOTLESS", "true")], Rootless::True),
        ] {
            let loaded = load(&sources(&folder, file, variables)).expect("loads");
            assert_eq!(loaded.settings.runtime.rootless, expected, "{file}");
        }
        let faults = faults("[runtime]\nrootless = 1", &[]);
        assert!(faults[0].contains("runtime.rootless (file "), "{faults:?}");
    }

    #[test]
    fn a_list_is_written_with_commas_in_a_variable() {
        let folder = tempfile::tempdir().expect("a folder");
        let variables = [
            ("EM_IMAGES__REGISTRIES", "a.example, b.example:5000,"),
            ("EM_NETWORK__ALLOWED", "10.1.0.0/16"),
        ];
        let settings = load(&sources(&folder, "", &variables))
            .expect("loads")
            .settings;
        assert_eq!(settings.images.registries, ["a.example", "b.example:5000"]);
        let allowed: Vec<_> = settings
            .network
            .allowed
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(allowed, ["10.1.0.0/16"]);
        let faults = faults("", &[("EM_NETWORK__DENIED", "10.1.0.0/16, moon")]);
        assert!(
            faults[0].contains("network.denied") && faults[0].contains("moon"),
            "{faults:?}"
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_origin() {
        for (file, variables, expected) in [
            ("[server]\nlistne = 1", &[][..], "server.listne (file "),
            ("[server]\nlistne = 1", &[], "did you mean server.listen?"),
            ("[weather]\n", &[], "weather (file "),
            ("server = 1", &[], "write its keys below a line [server]"),
            ("a = = 1", &[], "line 1 is no TOML"),
            (
                "[worker]\nlease_seconds = \"x\"",
                &[],
                "worker.lease_seconds (file ",
            ),
            (
                "[worker]\nlease_seconds = -1",
                &[],
                "worker.lease_seconds (file ",
            ),
            (
                "",
                &[("EM_SERVER_LISTEN", "x")],
                "did you mean EM_SERVER__LISTEN?",
            ),
            (
                "",
                &[("EM_server__listen", "127.0.0.1:1")],
                "did you mean EM_SERVER__LISTEN?",
            ),
            (
                "",
                &[("EM_STORE__KIND", "redis")],
                "store.kind (variable EM_STORE__KIND)",
            ),
            (
                "",
                &[("EM_WORKER__CONCURRENCY", "many")],
                "\"many\" is no whole number",
            ),
            (
                "",
                &[("PORT", "http")],
                "server.listen (variable PORT): \"http\" is no port",
            ),
        ] {
            let faults = faults(file, variables);
            assert!(
                faults.iter().any(|fault| fault.contains(expected)),
                "{expected}: {faults:?}"
            );
        }
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let variables = [("EM_WORKER__CONCURRENCY", "-1"), ("EM_NOPE__NOPE", "x")];
        let faults = faults("[server]\nlisten = \"here\"\nx = 1", &variables);
        assert_eq!(faults.len(), 4, "{faults:?}");
        assert!(
            faults.iter().all(|fault| !fault.contains('\n')),
            "{faults:?}"
        );
    }

    #[test]
    fn a_missing_file_is_an_error() {
        let sources = Sources {
            file: Some("/nowhere/em.toml".into()),
            data_dir: Some("/data".into()),
            ..Sources::default()
        };
        let error = load(&sources).expect_err("there is no file").to_string();
        assert!(
            error.contains("file /nowhere/em.toml: cannot be read"),
            "{error}"
        );
    }
}
