//! Whether a volume is as large as its claim asks for, and no larger.
//!
//! A class may serve claims with folders of a node's disk, or of a share, which hold whatever that disk has room for.
//! Classes and volumes are the cluster's, where the service may not look; but a claim says who serves it, and of some it is
//! known that they give each claim a disk of its own.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt as _;

/// Where a claim says who serves it: the name of today, and the one before.
const PROVISIONER: [&str; 2] = [
    "volume.kubernetes.io/storage-provisioner",
    "volume.beta.kubernetes.io/storage-provisioner",
];

/// Who gives each claim a disk of its own. Some installations put a name of their own before it, and a dot.
const OWN_DISKS: [&str; 19] = [
    "kubernetes.io/gce-pd",
    "kubernetes.io/aws-ebs",
    "kubernetes.io/azure-disk",
    "pd.csi.storage.gke.io",
    "ebs.csi.aws.com",
    "ebs.csi.eks.amazonaws.com",
    "disk.csi.azure.com",
    "cinder.csi.openstack.org",
    "csi.vsphere.vmware.com",
    "rbd.csi.ceph.com",
    "driver.longhorn.io",
    "topolvm.io",
    "topolvm.cybozu.com",
    "dobs.csi.digitalocean.com",
    "csi.hetzner.cloud",
    "linodebs.csi.linode.com",
    "block.csi.vultr.com",
    "csi.scaleway.com",
    "blockvolume.csi.oraclecloud.com",
];

/// Whether it is known that a volume holds an environment to what it may store.
pub(super) fn is_enforced(claim: &PersistentVolumeClaim) -> bool {
    let annotations = claim.annotations();
    let provisioner = PROVISIONER.iter().find_map(|name| annotations.get(*name));
    provisioner.is_some_and(|provisioner| {
        OWN_DISKS.iter().any(|known| {
            let rest = provisioner.strip_suffix(known);
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served_by(annotation: &str, provisioner: &str) -> PersistentVolumeClaim {
        let mut claim = PersistentVolumeClaim::default();
        let annotations = claim.annotations_mut();
        annotations.insert(annotation.to_owned(), provisioner.to_owned());
        claim
    }

    #[test]
    fn only_a_disk_of_its_own_is_known_to_hold_no_more_than_was_asked_for() {
        for disk in [
            "pd.csi.storage.gke.io",
            "rook-ceph.rbd.csi.ceph.com",
            "ebs.csi.aws.com",
        ] {
            for annotation in PROVISIONER {
                assert!(is_enforced(&served_by(annotation, disk)), "{disk}");
            }
        }
        for other in [
            "k8s.io/minikube-hostpath",
            "rancher.io/local-path",
            "hostpath.csi.k8s.io",
            "nfs.csi.k8s.io",
            "efs.csi.aws.com",
            "filestore.csi.storage.gke.io",
            "notpd.csi.storage.gke.io",
            "",
        ] {
            assert!(!is_enforced(&served_by(PROVISIONER[0], other)), "{other}");
        }
        assert!(
            !is_enforced(&PersistentVolumeClaim::default()),
            "bound by hand"
        );
    }
}
