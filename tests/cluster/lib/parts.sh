# How each daemon is started. The same words start it again after it was killed.
# shellcheck shell=bash

parts=(holder etcd apiserver containerd controllers scheduler kubelet provisioner)

# Keeps the mount namespace open. What other programs of the machine share by fixed paths is private in it.
start_holder() {
  mkdir -p /var/lib/kubelet /var/lib/cni /var/log/containers /run/containerd
  start holder unshare --mount --propagation slave sh -c '
    for place in /var/lib/kubelet /var/lib/cni /var/log/containers /run/containerd; do
      mkdir -p "$0/private$place" && mount --bind "$0/private$place" "$place" || exit 1
    done
    touch "$0/run/.mounted"
    exec sleep infinity' "$folder"
  await 10 "the mount namespace" test -e "$folder/run/.mounted"
}

start_etcd() {
  local at="https://$address:$etcd_port" peer="http://$address:$peer_port" pki="$folder/pki"
  start etcd etcd --data-dir "$folder/etcd" --unsafe-no-fsync \
    --listen-client-urls "$at" --advertise-client-urls "$at" \
    --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "default=$peer" \
    --cert-file "$pki/cluster.crt" --key-file "$pki/cluster.key" --trusted-ca-file "$pki/ca.crt" --client-cert-auth
}

# The address that it advertises is nobody's: nothing in the cluster finds the API server by its service.
start_apiserver() {
  local pki="$folder/pki"
  start apiserver "$kube" kube-apiserver --bind-address "$address" --secure-port "$api_port" \
    --advertise-address "$pods.1" --endpoint-reconciler-type none \
    --tls-cert-file "$pki/cluster.crt" --tls-private-key-file "$pki/cluster.key" \
    --etcd-servers "https://$address:$etcd_port" --etcd-cafile "$pki/ca.crt" \
    --etcd-certfile "$pki/cluster.crt" --etcd-keyfile "$pki/cluster.key" \
    --kubelet-client-certificate "$pki/cluster.crt" --kubelet-client-key "$pki/cluster.key" \
    --kubelet-preferred-address-types Hostname \
    --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$pki/accounts.pub" \
    --service-account-signing-key-file "$pki/accounts.key" --service-cluster-ip-range 10.96.0.0/16 \
    --token-auth-file "$pki/tokens.csv" --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
    --audit-policy-file "$folder/audit-policy.yaml" --audit-log-path "$folder/audit.log"
}

start_containerd() { start_inside containerd containerd --config "$folder/containerd.toml"; }

start_controllers() {
  start controllers "$kube" kube-controller-manager --kubeconfig "$folder/controllers.kubeconfig" --leader-elect=false \
    --secure-port 0 --service-account-private-key-file "$folder/pki/accounts.key" --root-ca-file "$folder/pki/ca.crt"
}

start_scheduler() {
  start scheduler "$kube" kube-scheduler --kubeconfig "$folder/scheduler.kubeconfig" --leader-elect=false --secure-port 0
}

# The node is named by its address, which is how the API server finds it.
start_kubelet() {
  start_inside kubelet "$kube" kubelet --config "$folder/kubelet.yaml" --kubeconfig "$folder/kubelet.kubeconfig" \
    --hostname-override "$address" --root-dir "$folder/kubelet"
}

start_provisioner() {
  start provisioner "$kube" provisioner --kubeconfig "$folder/provisioner.kubeconfig" --folder "$folder/volumes" \
    --node "$address"
}

apiserver_ready() { kubectl get --raw /readyz; }
containerd_ready() { ctr -a "$folder/containerd.sock" version; }

# A node that is ready and takes pods: its taints go a moment after it has become ready.
node_ready() {
  [ "$(kubectl get node "$address" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}{.spec.taints}')" = True ]
}

# Whether a cluster runs here and takes pods; says what is wrong with one that does not.
cluster_well() {
  [ -e "$folder/kubeconfig" ] || return 1
  local dead
  dead=$(daemons_live) || { say "$dead of the cluster is dead" && tail -n 20 "$folder/logs/$dead.log" >&2 && return 1; }
  apiserver_ready >/dev/null || { say "the API server is not ready" && return 1; }
  node_ready || {
    say "the node takes no pods; the disk and the node:"
    df "$folder" >&2
    kubectl get node "$address" -o 'jsonpath={.spec.taints}{"\n"}{.status.conditions}{"\n"}' >&2
    tail -n 20 "$folder/logs/kubelet.log" >&2
    return 1
  }
}
