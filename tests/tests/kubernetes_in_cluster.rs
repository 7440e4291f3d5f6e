//! A service that finds its cluster as one in a pod does: by variables, and by a token and an authority in a folder. The
//! token is given out anew long before it ends, and the service must take the new one.

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::config::Kubeconfig;
use kube::{Client, Config};
use tests::cluster::{Account, Cluster, SMALL_IMAGE};
use tests::conformance::runtime::given::until;
use tests::program::{Begun, beside};

/// Where a pod has its account is a link to the folder of the test, in a namespace of mounts that ends with the service.
const IN_POD: &str = "mount -t tmpfs none /run && mkdir -p /run/secrets/kubernetes.io && \
    ln -s \"$0\" /run/secrets/kubernetes.io/serviceaccount && exec \"$@\"";

/// Puts a text where another may be read at this moment.
fn put(folder: &Path, name: &str, text: &[u8]) {
    let new = folder.join(format!(".{name}"));
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, folder.join(name)).unwrap();
}

/// A client with a token of its own.
fn client_with(admin: &Config, token: &str) -> Client {
    let mut config = admin.clone();
    config.auth_info.token = Some(token.to_owned().into());
    Client::try_from(config).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_given_out_anew_is_taken() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace().await;
    let own = Account::new(&namespace).await;
    let file = Kubeconfig::read_from(cluster.kubeconfig()).unwrap();
    let authority = file.clusters[0].cluster.as_ref().unwrap();
    let authority = authority.certificate_authority_data.clone().unwrap();
    let admin = Config::from_custom_kubeconfig(file, &Default::default())
        .await
        .unwrap();
    let account = tempfile::tempdir().unwrap();
    put(
        account.path(),
        "ca.crt",
        &STANDARD.decode(authority).unwrap(),
    );
    put(account.path(), "namespace", namespace.name().as_bytes());
    let first = own.token("first").await;
    put(account.path(), "token", first.as_bytes());

    let data = tempfile::tempdir().unwrap();
    let (host, port) = (
        admin.cluster_url.host().unwrap(),
        admin.cluster_url.port_u16().unwrap(),
    );
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", IN_POD])
        .arg(account.path())
        .arg(beside("environment-manager"))
        .arg("serve")
        .env_remove("KUBECONFIG")
        .env("KUBERNETES_SERVICE_HOST", host)
        .env("KUBERNETES_SERVICE_PORT", port.to_string())
        .env("EM_RUNTIME__KIND", "kubernetes")
        .env("EM_RUNTIME__NAMESPACE", namespace.name())
        .env("EM_RUNTIME__DEFAULT_IMAGE", SMALL_IMAGE);
    let service = Begun::by(&mut command, data.path());
    let client = service.client(data.path());
    until(async || client.is_ready().await).await;
    client.create("before").await;
    assert_eq!(client.printed("before", "echo well").await, "well\n");

    let second = own.token("second").await;
    put(account.path(), "token", second.as_bytes());
    own.revoke("first").await;
    let outdated: Api<Pod> = Api::namespaced(client_with(&admin, &first), namespace.name());
    until(async || outdated.list(&ListParams::default()).await.is_err()).await;
    client.create("after").await;
    assert_eq!(client.printed("after", "echo well").await, "well\n");
    assert_eq!(client.printed("before", "echo still").await, "still\n");
}
