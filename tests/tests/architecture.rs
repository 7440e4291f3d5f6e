//! The crate graph has only the arrows of the architecture.
//!
//! ```text
//!           cli
//!         /  |  \
//!      api   |   worker ──▶ runner (its client half)
//!         \  |  /
//!         shared             tests ──▶ anything
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// The names of crates that must never come in by any way: a second asynchronous runtime or TLS implementation.
const NOWHERE: [&str; 7] = [
    "async-std",
    "native-tls",
    "openssl",
    "openssl-sys",
    "smol",
    "boring",
    "mbedtls",
];

/// What the middle must not know: the outside it is reached from, and the outside it reaches.
const NOT_IN_SHARED: [&str; 8] = [
    "axum",
    "hyper",
    "k8s-openapi",
    "kube",
    "kube-client",
    "reqwest",
    "tonic",
    "tower-http",
];

/// What the way in must not know: what environments are made of, however it would come to know it.
const NOT_IN_API: [&str; 9] = [
    "command-fds",
    "k8s-openapi",
    "kube",
    "kube-client",
    "prost",
    "runner",
    "tonic",
    "tonic-prost",
    "worker",
];

/// The workspace and everything it stands on, as cargo resolved it.
struct Graph {
    metadata: Value,
}

impl Graph {
    fn read() -> Self {
        let host = Command::new("rustc")
            .arg("-vV")
            .output()
            .expect("rustc runs");
        let host = String::from_utf8(host.stdout).expect("UTF-8");
        let host = host
            .lines()
            .find_map(|line| line.strip_prefix("host: "))
            .expect("a host");
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version=1", "--locked"])
            .args(["--filter-platform", host])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        let metadata = serde_json::from_slice(&output.stdout).expect("JSON");
        Self { metadata }
    }

    fn packages(&self) -> impl Iterator<Item = &Value> {
        self.metadata["packages"]
            .as_array()
            .expect("packages")
            .iter()
    }

    /// The workspace's own packages by name.
    fn members(&self) -> BTreeMap<&str, &Value> {
        let members = self.metadata["workspace_members"]
            .as_array()
            .expect("members");
        self.packages()
            .filter(|package| members.contains(&package["id"]))
            .map(|package| (text(&package["name"]), package))
            .collect()
    }

    /// The workspace's packages that a package's program is made of; those of its tests are not counted.
    fn arrows<'a>(&'a self, package: &'a Value) -> BTreeSet<&'a str> {
        let members = self.members();
        dependencies(package)
            .filter(|dependency| dependency["kind"].as_str() != Some("dev"))
            .map(|dependency| text(&dependency["name"]))
            .filter(|name| members.contains_key(name))
            .collect()
    }

    /// The names of all packages that a package's program is made of, directly or not.
    fn closure(&self, name: &str) -> BTreeSet<&str> {
        let names: BTreeMap<_, _> = self
            .packages()
            .map(|package| (text(&package["id"]), text(&package["name"])))
            .collect();
        let nodes: BTreeMap<_, _> = self.metadata["resolve"]["nodes"]
            .as_array()
            .expect("nodes")
            .iter()
            .map(|node| (text(&node["id"]), node))
            .collect();
        let mut waiting = vec![text(&self.members()[name]["id"])];
        let mut seen = BTreeSet::new();
        while let Some(id) = waiting.pop() {
            if !seen.insert(id) {
                continue;
            }
            for dependency in nodes[id]["deps"].as_array().expect("deps") {
                let kinds = dependency["dep_kinds"].as_array().expect("kinds");
                if kinds.iter().any(|kind| kind["kind"].is_null()) {
                    waiting.push(text(&dependency["pkg"]));
                }
            }
        }
        seen.into_iter().map(|id| names[id]).collect()
    }
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn dependencies(package: &Value) -> impl Iterator<Item = &Value> {
    package["dependencies"]
        .as_array()
        .expect("dependencies")
        .iter()
}

#[test]
fn only_the_arrows_of_the_architecture_are_there() {
    let graph = Graph::read();
    let allowed: BTreeMap<&str, &[&str]> = [
        ("api", &["shared"][..]),
        ("environment-manager", &["api", "shared", "worker"]),
        ("runner", &[]),
        ("shared", &[]),
        ("worker", &["runner", "shared"]),
    ]
    .into();
    for (name, package) in graph.members() {
        let Some(allowed) = allowed.get(name) else {
            assert!(name == "tests", "{name} has no place in the architecture");
            continue;
        };
        let more: Vec<_> = graph
            .arrows(package)
            .into_iter()
            .filter(|arrow| !allowed.contains(arrow))
            .collect();
        assert!(more.is_empty(), "{name} must not depend on {more:?}");
    }
}

#[test]
fn nothing_but_tests_depends_on_tests() {
    let graph = Graph::read();
    for (name, package) in graph.members() {
        let depends = dependencies(package).any(|dependency| text(&dependency["name"]) == "tests");
        assert!(!depends, "{name} depends on the tests");
    }
}

#[test]
fn the_worker_uses_only_the_client_half_of_the_runner() {
    let graph = Graph::read();
    let worker = graph.members()["worker"];
    let runner = dependencies(worker)
        .find(|dependency| text(&dependency["name"]) == "runner")
        .expect("the worker depends on the runner");
    assert_eq!(runner["uses_default_features"], false);
    assert_eq!(runner["features"], serde_json::json!([]));
}

#[test]
fn the_middle_knows_neither_side() {
    let graph = Graph::read();
    let closure = graph.closure("shared");
    assert!(
        closure.contains("rusqlite"),
        "the closure is complete: {closure:?}"
    );
    for name in NOT_IN_SHARED {
        assert!(!closure.contains(name), "shared stands on {name}");
    }
}

#[test]
fn the_way_in_knows_nothing_of_containers() {
    let graph = Graph::read();
    let closure = graph.closure("api");
    assert!(
        closure.contains("axum"),
        "the closure is complete: {closure:?}"
    );
    for name in NOT_IN_API {
        assert!(!closure.contains(name), "api stands on {name}");
    }
}

#[test]
fn there_is_one_asynchronous_runtime_and_one_tls() {
    let graph = Graph::read();
    let names: BTreeSet<_> = graph
        .packages()
        .map(|package| text(&package["name"]))
        .collect();
    assert!(names.contains("tokio"), "the list is complete: {names:?}");
    for name in NOWHERE {
        assert!(!names.contains(name), "{name} came in");
    }
}
