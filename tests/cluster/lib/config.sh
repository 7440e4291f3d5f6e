# What the daemons read: keys, tokens, kubeconfigs, configuration.
# shellcheck shell=bash

# One certificate stands for the cluster: the API server and etcd serve with it, and the API server shows it to etcd and
# to the kubelet, which admit nobody else.
write_keys() {
  local pki="$folder/pki" curve=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
  openssl req -x509 "${curve[@]}" -days 3650 -subj /CN=environment-manager-test-ca \
    -addext "keyUsage=critical,keyCertSign,cRLSign" -keyout "$pki/ca.key" -out "$pki/ca.crt" 2>/dev/null
  openssl req "${curve[@]}" -subj /CN=environment-manager-test \
    -keyout "$pki/cluster.key" -out "$pki/cluster.csr" 2>/dev/null
  openssl x509 -req -in "$pki/cluster.csr" -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -CAcreateserial -days 3650 \
    -extfile /dev/stdin -out "$pki/cluster.crt" 2>/dev/null <<END
basicConstraints=CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth,clientAuth
subjectAltName=IP:$address,IP:127.0.0.1,DNS:localhost
END
  openssl genrsa -out "$pki/accounts.key" 2048 2>/dev/null
  openssl rsa -in "$pki/accounts.key" -pubout -out "$pki/accounts.pub" 2>/dev/null
}

# Who may call the API server. Each has a name of its own, so that the audit log tells them apart.
write_users() {
  local user groups token
  while read -r user name groups; do
    token=$(openssl rand -hex 16)
    echo "$token,$name,$user,\"$groups\"" >>"$folder/pki/tokens.csv"
    kubeconfig "$token" >"$folder/$user.kubeconfig"
  done <<END
admin admin system:masters
controllers system:kube-controller-manager system:masters
scheduler system:kube-scheduler
kubelet system:node:$address system:nodes
provisioner provisioner system:masters
END
  mv "$folder/admin.kubeconfig" "$folder/kubeconfig"
}

kubeconfig() {
  cat <<END
apiVersion: v1
kind: Config
clusters:
  - name: test
    cluster: {server: "https://$address:$api_port", certificate-authority-data: "$(base64 -w0 "$folder/pki/ca.crt")"}
users: [{name: test, user: {token: "$1"}}]
contexts: [{name: test, context: {cluster: test, user: test}}]
current-context: test
END
}

# Every request of the tests, and none of the cluster's own parts.
write_audit_policy() {
  cat >"$folder/audit-policy.yaml" <<END
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: None
    users: ["system:kube-controller-manager", "system:kube-scheduler", "system:node:$address", "provisioner", "system:apiserver"]
  - level: Metadata
END
}

write_containerd() {
  cat >"$folder/cni/10-bridge.conflist" <<END
{"cniVersion": "1.0.0", "name": "$id", "plugins": [{"type": "bridge", "bridge": "$id", "isGateway": false, "ipMasq": false,
 "ipam": {"type": "host-local", "ranges": [[{"subnet": "$pods.0/24"}]], "dataDir": "$folder/cni/addresses"}}]}
END
  # restrict_oom_score_adj: without CAP_SYS_RESOURCE no sandbox would start otherwise.
  cat >"$folder/containerd.toml" <<END
version = 2
root = "$folder/containerd/root"
state = "$folder/containerd/state"
oom_score = 0
[grpc]
  address = "$folder/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  sandbox_image = "environment-manager.test/pause:1"
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$folder/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
END
}

# failCgroupV1: the hierarchies of this machine may be of either version, or both. 0% switches a threshold off: a node
# that sees little room on the machine's disk would refuse and evict pods of tests that need none.
write_kubelet() {
  cat >"$folder/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $address
port: $kubelet_port
readOnlyPort: 0
healthzPort: 0
oomScoreAdj: 0
cgroupDriver: cgroupfs
cgroupRoot: /$id
failSwapOn: false
failCgroupV1: false
makeIPTablesUtilChains: false
containerRuntimeEndpoint: unix://$folder/containerd.sock
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: false}
  x509: {clientCAFile: $folder/pki/ca.crt}
authorization: {mode: AlwaysAllow}
evictionHard: {nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%", imagefs.inodesFree: "0%"}
imageGCHighThresholdPercent: 100
maxPods: 200
enforceNodeAllocatable: [pods]
resolvConf: /etc/resolv.conf
volumePluginDir: $folder/kubelet/volume-plugins
podLogsDir: $folder/pod-logs
syncFrequency: 10s
END
}
