//! The network policies: nothing comes in, and what goes out is what the pod's class allows.
//!
//! They are the same for every environment of a namespace and find their pods by label, so they are made before the first
//! pod, and again now and then before a later one, since anybody may have removed or changed them. The cluster's network plugin has to enforce them; one that does not know network policies lets everything
//! through.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::try_join_all;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    LabelSelector, LabelSelectorRequirement, ObjectMeta,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams};
use shared::environment::Egress;
use shared::ports::RuntimeError;

use super::cluster::Cluster;
use super::fault::failed;
use super::names;

/// What is written by the service is told from what others write.
const WRITER: &str = "environment-manager";

/// Addresses that are not the internet: private, shared, of the link (where clouds have their metadata), of the machine,
/// reserved, multicast.
const NOT_INTERNET_4: [&str; 13] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
];

/// The internet of IPv6: all addresses that were ever given out to be reached from everywhere. What stands for an IPv4
/// address (`::/96`, `::ffff:0:0/96`, `64:ff9b::/96`, `64:ff9b:1::/48`), and what is private, of the link or multicast, lies
/// outside of it.
const INTERNET_6: &str = "2000::/3";

/// What is within it and is not the internet: tunnels to an IPv4 address, which may be a private one (Teredo, 6to4), and
/// addresses of documents.
const NOT_INTERNET_6: [&str; 4] = ["2001::/32", "2001:db8::/32", "2002::/16", "3fff::/20"];

/// How long policies are taken to be as they were made.
const TRUSTED_TIME: Duration = Duration::from_secs(60);

/// Where clouds tell a machine who it is, and give out its credentials.
const METADATA_4: [&str; 1] = ["169.254.0.0/16"];
const METADATA_6: [&str; 3] = ["fd00:ec2::254/128", "fd20:ce::254/128", "fe80::/10"];

/// Where a node answers for the cluster's name server, if it does.
const NODE_LOCAL_DNS: &str = "169.254.20.10/32";

/// All policies.
pub(super) fn all() -> Vec<NetworkPolicy> {
    let egress = [Egress::None, Egress::Internet, Egress::Cluster].map(outwards);
    [inwards()].into_iter().chain(egress).collect()
}

/// Nobody connects to an environment: the worker reaches its runner without.
fn inwards() -> NetworkPolicy {
    let every = LabelSelector {
        match_expressions: Some(vec![LabelSelectorRequirement {
            key: names::INSTANCE.to_owned(),
            operator: "Exists".to_owned(),
            values: None,
        }]),
        match_labels: None,
    };
    policy(
        "environment-manager-inwards".to_owned(),
        every,
        "Ingress",
        None,
    )
}

fn outwards(class: Egress) -> NetworkPolicy {
    let label = names::egress(class);
    let of_class = LabelSelector {
        match_labels: Some(BTreeMap::from([(
            names::EGRESS.to_owned(),
            label.to_owned(),
        )])),
        match_expressions: None,
    };
    let rules = match class {
        Egress::None => None,
        Egress::Internet => Some(vec![
            names_are_resolved(),
            to(vec![
                block("0.0.0.0/0", &NOT_INTERNET_4),
                block(INTERNET_6, &NOT_INTERNET_6),
            ]),
        ]),
        Egress::Cluster => Some(vec![
            names_are_resolved(),
            to(vec![
                block("0.0.0.0/0", &METADATA_4),
                block("::/0", &METADATA_6),
            ]),
        ]),
    };
    policy(
        format!("environment-manager-egress-{label}"),
        of_class,
        "Egress",
        rules,
    )
}

fn policy(
    name: String,
    pods: LabelSelector,
    direction: &str,
    egress: Option<Vec<NetworkPolicyEgressRule>>,
) -> NetworkPolicy {
    NetworkPolicy {
        metadata: ObjectMeta {
            name: Some(name),
            ..ObjectMeta::default()
        },
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(pods),
            policy_types: Some(vec![direction.to_owned()]),
            egress,
            ingress: None,
        }),
    }
}

/// The cluster's name servers, and nothing else of the cluster.
fn names_are_resolved() -> NetworkPolicyEgressRule {
    let label = |key: &str, value: &str| LabelSelector {
        match_labels: Some(BTreeMap::from([(key.to_owned(), value.to_owned())])),
        match_expressions: None,
    };
    let port = |protocol: &str| NetworkPolicyPort {
        protocol: Some(protocol.to_owned()),
        port: Some(IntOrString::Int(53)),
        end_port: None,
    };
    NetworkPolicyEgressRule {
        ports: Some(vec![port("UDP"), port("TCP")]),
        to: Some(vec![
            NetworkPolicyPeer {
                namespace_selector: Some(label("kubernetes.io/metadata.name", "kube-system")),
                pod_selector: Some(label("k8s-app", "kube-dns")),
                ip_block: None,
            },
            block(NODE_LOCAL_DNS, &[]),
        ]),
    }
}

fn to(blocks: Vec<NetworkPolicyPeer>) -> NetworkPolicyEgressRule {
    NetworkPolicyEgressRule {
        ports: None,
        to: Some(blocks),
    }
}

fn block(cidr: &str, except: &[&str]) -> NetworkPolicyPeer {
    let except: Vec<_> = except.iter().map(|cidr| (*cidr).to_owned()).collect();
    NetworkPolicyPeer {
        ip_block: Some(IPBlock {
            cidr: cidr.to_owned(),
            except: (!except.is_empty()).then_some(except),
        }),
        ..NetworkPolicyPeer::default()
    }
}

impl Cluster {
    /// Makes the policies what they should be, unless that was done a moment ago.
    pub(super) async fn fence(&self) -> Result<(), RuntimeError> {
        let mut fenced = self.fenced.lock().await;
        let now = self.clock.monotonic();
        if fenced.is_some_and(|then| now.saturating_duration_since(then) < TRUSTED_TIME) {
            return Ok(());
        }
        let params = PatchParams::apply(WRITER).force();
        let policies = all();
        let apply = policies.iter().map(async |policy| {
            let name = policy.name_any();
            self.policies
                .patch(&name, &params, &Patch::Apply(policy))
                .await
        });
        let applied = try_join_all(apply).await;
        applied.map_err(failed("the network policies cannot be made"))?;
        *fenced = Some(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_policies_of_a_namespace() {
        insta::assert_yaml_snapshot!(super::all());
    }
}
