//! Many environments at once on one node, by way of the whole service.

use futures::future::join_all;
use tests::cluster::{Cluster, serve};
use tests::program::{Client, id_of};

const MANY: usize = 50;

/// Creates an environment, uses it, and deletes it.
async fn whole_life(client: &Client, number: usize) {
    let id = format!("env-{number}");
    client.create(&id).await;
    let printed = client
        .printed(&id, &format!("echo {number} > file; cat file"))
        .await;
    assert_eq!(printed, format!("{number}\n"));
    let delete = client.delete(&format!("/v1/environments/{id}")).await;
    let ended = client.ended(id_of(&delete.expect(202).json())).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_environments_are_created_used_and_deleted_at_once() {
    // Fifty pods of the usual size are more than one small node has room for.
    let small = [("EM_LIMITS__CPU", "200m"), ("EM_LIMITS__MEMORY", "64Mi")];
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace().await;
    let program = serve(&namespace, cluster.kubeconfig(), &small).await;
    let client = program.client();
    join_all((0..MANY).map(|number| whole_life(&client, number))).await;
    assert_eq!(namespace.objects().await, Vec::<String>::new());
    assert!(!program.log().contains("panicked"));
}
