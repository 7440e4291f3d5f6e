//! The worker's own role, against the API server's record of what the worker asked for.

use std::collections::BTreeSet;
use std::path::Path;

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, PostParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tests::cluster::{Cluster, NO_IMAGE};
use tests::conformance::runtime::Given;

use super::bench::Bench;
use super::warm;

const MANIFEST: &str = include_str!("../../../k8s/role.yaml");

/// Group, resource, verb.
type Right = (String, String, String);

/// What the record does not show: the first is asked for by newer API servers, the second within a patch.
const UNRECORDED: [(&str, &str, &str); 2] = [
    ("", "pods/exec", "create"),
    ("networking.k8s.io", "networkpolicies", "create"),
];

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_refused_and_nothing_is_unused() {
    let cluster = Cluster::shared().await;
    let mut bench = Bench::on(&cluster).await;
    let namespace = bench.namespace.name().to_owned();
    let granted = rights(&apply(&bench).await);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    let kubeconfig = kubeconfig_of(&bench, cluster.kubeconfig()).await;
    std::fs::write(&path, kubeconfig.to_string()).unwrap();

    bench.use_kubeconfig(&path);
    use_all(&bench, &bench.given().await).await;

    // A cluster of another making keeps its record to itself.
    let Some(log) = cluster.audit_log() else {
        return;
    };
    let account = format!("system:serviceaccount:{namespace}:environment-manager");
    let record = std::fs::read_to_string(log).unwrap();
    let (used, refused) = recorded(&record, &account);
    assert_eq!(refused, BTreeSet::new(), "the role allows too little");
    let mut unused: BTreeSet<_> = granted.difference(&used).cloned().collect();
    for (group, resource, verb) in UNRECORDED {
        assert!(unused.remove(&(group.to_owned(), resource.to_owned(), verb.to_owned())));
    }
    assert_eq!(unused, BTreeSet::new(), "the role allows too much");
}

/// Everything that the adapter does.
async fn use_all(bench: &Bench, given: &Given) {
    let lodging = given.environment().await;
    lodging.run("echo there > file").await.text();
    lodging.runtime.create(&lodging.placement).await.unwrap();
    lodging.stop().await;
    lodging.start().await;
    assert_eq!(lodging.run("cat file").await.text(), "there");
    lodging.runtime.kill(lodging.uid(), None).await.unwrap();
    lodging.runtime.inspect(lodging.uid()).await.unwrap();
    let mut without = given.life();
    without.placement.spec.image = NO_IMAGE.to_owned();
    without.runtime.create(&without.placement).await.unwrap();
    without.delete().await;
    warm::ready(bench, given, 1).await;
    given.environment().await.run("true").await.text();
    given.clear().await;
}

/// Makes what the manifest says, in the namespace of the test.
async fn apply(bench: &Bench) -> Role {
    let namespace = bench.namespace.name();
    let text = MANIFEST.replace(
        "namespace: environments",
        &format!("namespace: {namespace}"),
    );
    let mut documents = text.split("\n---\n");
    let params = PostParams::default();
    let mut next = || documents.next().expect("a document");
    let accounts: Api<ServiceAccount> = bench.namespace.api();
    accounts.create(&params, &parse(next())).await.unwrap();
    let roles: Api<Role> = bench.namespace.api();
    let role = roles.create(&params, &parse(next())).await.unwrap();
    let bindings: Api<RoleBinding> = bench.namespace.api();
    bindings.create(&params, &parse(next())).await.unwrap();
    role
}

fn parse<K: DeserializeOwned>(document: &str) -> K {
    serde_saphyr::from_str(document).expect("an object")
}

fn rights(role: &Role) -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for rule in role.rules.iter().flatten() {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                let right = |verb: &String| (group.clone(), resource.clone(), verb.clone());
                rights.extend(rule.verbs.iter().map(right));
            }
        }
    }
    rights
}

/// The administrator's kubeconfig with the worker's own token in it.
async fn kubeconfig_of(bench: &Bench, admin: &Path) -> Value {
    let accounts: Api<ServiceAccount> = bench.namespace.api();
    let request: TokenRequest =
        serde_json::from_value(json!({ "spec": { "audiences": [] } })).unwrap();
    let issued = accounts
        .create_token_request("environment-manager", &PostParams::default(), &request)
        .await
        .unwrap();
    let admin = std::fs::read_to_string(admin).unwrap();
    let mut kubeconfig: Value = serde_saphyr::from_str(&admin).unwrap();
    kubeconfig["users"][0]["user"] = json!({ "token": issued.status.unwrap().token });
    kubeconfig
}

/// What an account used, and what it was refused.
fn recorded(log: &str, account: &str) -> (BTreeSet<Right>, BTreeSet<Right>) {
    let (mut used, mut refused) = (BTreeSet::new(), BTreeSet::new());
    for line in log.lines() {
        let Ok(event) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        if event["user"]["username"] != account {
            continue;
        }
        let object = &event["objectRef"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let resource = match object["subresource"].as_str() {
            Some(part) => format!("{}/{part}", text(&object["resource"])),
            None => text(&object["resource"]),
        };
        let right = (text(&object["apiGroup"]), resource, text(&event["verb"]));
        if event["responseStatus"]["code"] == 403 {
            refused.insert(right);
        } else {
            used.insert(right);
        }
    }
    (used, refused)
}
