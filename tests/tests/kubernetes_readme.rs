//! What the README says of Kubernetes, run as it stands there: the cluster of its second block, then the service of its
//! first. Only the namespace has a name of the test's own, since the cluster may be one that somebody uses.

use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DeleteParams};
use tests::cluster::Cluster;
use tests::conformance::runtime::given::until;
use tests::program::{Begun, beside, id_of};

/// The workspace's folder.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The blocks of the README whose fence says `sh cluster`.
fn blocks() -> Vec<String> {
    let readme = std::fs::read_to_string(Path::new(ROOT).join("README.md")).expect("it is there");
    let mut parts = readme.split("```sh cluster\n").skip(1);
    let blocks = parts.by_ref().filter_map(|part| part.split("```").next());
    blocks.map(str::to_owned).collect()
}

/// Folder with the commands that the README takes for there.
struct Tools(tempfile::TempDir);

impl Tools {
    fn new(kubectl: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let link = |from: &Path, name: &str| {
            std::os::unix::fs::symlink(from, folder.path().join(name)).expect("linked");
        };
        link(kubectl, "kubectl");
        link(&beside("environment-manager"), "environment-manager");
        Self(folder)
    }

    fn path(&self) -> String {
        let before = std::env::var("PATH").expect("a PATH");
        format!("{}:{before}", self.0.path().display())
    }
}

/// The namespace of the README under a name of the test's own, with the manifests that make it. It goes with this.
struct Renamed {
    name: String,
    folder: tempfile::TempDir,
    kubectl: PathBuf,
    kubeconfig: PathBuf,
}

impl Renamed {
    fn new(kubectl: &Path, kubeconfig: &Path) -> Self {
        let renamed = Self {
            name: format!("readme-{:016x}", rand::random::<u64>()),
            folder: tempfile::tempdir().expect("a folder"),
            kubectl: kubectl.to_owned(),
            kubeconfig: kubeconfig.to_owned(),
        };
        let manifests = renamed.folder.path().join("k8s");
        std::fs::create_dir(&manifests).expect("made");
        for manifest in ["namespace.yaml", "role.yaml"] {
            let text = std::fs::read_to_string(Path::new(ROOT).join("k8s").join(manifest));
            let text = renamed.in_place_of(": environments\n", &text.expect("it is there"));
            std::fs::write(manifests.join(manifest), text).expect("written");
        }
        renamed
    }

    /// A text with the test's own name wherever the pattern has the README's.
    fn in_place_of(&self, pattern: &str, text: &str) -> String {
        assert!(text.contains(pattern), "{text}");
        text.replace(pattern, &pattern.replace("environments", &self.name))
    }
}

impl Drop for Renamed {
    fn drop(&mut self) {
        let _ = Command::new(&self.kubectl)
            .args(["delete", "namespace", &self.name])
            .args(["--ignore-not-found", "--wait=false"])
            .env("KUBECONFIG", &self.kubeconfig)
            .status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_a_cluster_works_as_it_stands_there() {
    let cluster = Cluster::shared().await;
    let blocks = blocks();
    let [serves, brings_up] = &blocks[..] else {
        panic!("two blocks: {blocks:?}");
    };
    let kubectl = cluster.kubeconfig().with_file_name("kubectl");
    let kubectl: PathBuf = if kubectl.is_file() {
        kubectl
    } else {
        "/usr/bin/kubectl".into()
    };
    let tools = Tools::new(&kubectl);
    let data = tempfile::tempdir().expect("a folder");
    // The cluster that there is already, in place of one more.
    let up = format!("echo '{}'", cluster.kubeconfig().display());
    assert!(brings_up.contains("tests/cluster/up"), "{brings_up}");
    let renamed = Renamed::new(&kubectl, cluster.kubeconfig());
    let serves = renamed.in_place_of("EM_RUNTIME__NAMESPACE=environments\n", serves);
    let script = format!("{}\n{serves}", brings_up.replace("tests/cluster/up", &up));
    let mut shell = Command::new("bash");
    shell
        .args(["-e", "-u", "-o", "pipefail", "-c", &script])
        .current_dir(renamed.folder.path())
        .env("PATH", tools.path());
    let service = Begun::by(&mut shell, data.path());
    let client = service.client(data.path());
    until(async || client.is_ready().await).await;
    client.create("env").await;
    assert_eq!(
        client.printed("env", "python3 -c 'print(6 * 7)'").await,
        "42\n"
    );
    let deleted = client.delete("/v1/environments/env").await.expect(202);
    let deleted = client.ended(id_of(&deleted.json())).await;
    assert_eq!(deleted["state"], "succeeded", "{deleted}");
    drop(service);
    let namespaces: Api<Namespace> = Api::all(cluster.client().await);
    namespaces
        .delete(&renamed.name, &DeleteParams::default())
        .await
        .expect("it was made");
    until(async || {
        namespaces
            .get_opt(&renamed.name)
            .await
            .expect("read")
            .is_none()
    })
    .await;
}
