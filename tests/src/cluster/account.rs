//! The account that a service has in a cluster, with the rights that it needs and no others.

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, DeleteParams, PostParams};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::Namespace;

const MANIFEST: &str = include_str!("../../../k8s/role.yaml");

/// The service's account in a namespace.
pub struct Account<'a>(&'a Namespace);

impl<'a> Account<'a> {
    /// Makes the account and its role, from the file that users have.
    pub async fn new(namespace: &'a Namespace) -> Self {
        let own = format!("namespace: {}", namespace.name());
        let text = MANIFEST.replace("namespace: environments", &own);
        let documents: Vec<_> = text.split("\n---\n").collect();
        let params = PostParams::default();
        let accounts: Api<ServiceAccount> = namespace.api();
        let made = accounts.create(&params, &parse(documents[0])).await;
        made.expect("an account");
        let roles: Api<Role> = namespace.api();
        let made = roles.create(&params, &parse(documents[1])).await;
        made.expect("a role");
        let bindings: Api<RoleBinding> = namespace.api();
        let made = bindings.create(&params, &parse(documents[2])).await;
        made.expect("a binding");
        Self(namespace)
    }

    /// A token of it, by a name.
    pub async fn token(&self, name: &str) -> String {
        let secret = json!({ "metadata": { "name": name } });
        let secret = serde_json::from_value(secret).expect("a secret");
        let secrets: Api<Secret> = self.0.api();
        let made = secrets.create(&PostParams::default(), &secret).await;
        made.expect("made");
        let bound = json!({ "kind": "Secret", "apiVersion": "v1", "name": name });
        let request = json!({ "spec": { "audiences": [], "boundObjectRef": bound } });
        let request: TokenRequest = serde_json::from_value(request).expect("a request");
        let accounts: Api<ServiceAccount> = self.0.api();
        let params = PostParams::default();
        let issued = accounts.create_token_request("environment-manager", &params, &request);
        let status = issued.await.expect("issued").status;
        status.expect("a token").token
    }

    /// Ends a token. The API server remembers for some seconds whom it let in.
    pub async fn revoke(&self, name: &str) {
        let secrets: Api<Secret> = self.0.api();
        let gone = secrets.delete(name, &DeleteParams::default()).await;
        gone.expect("deleted");
    }
}

fn parse<K: DeserializeOwned>(document: &str) -> K {
    serde_saphyr::from_str(document).expect("an object")
}
