# The cluster's addresses. Its servers listen on a loopback address of their own, so that fixed ports collide with no
# other cluster; pods get addresses of a bridge without a way out.
# shellcheck shell=bash

# 127.X.Y.Z and 10.(128..255).N.0/24, from the folder's name.
address="127.$((16#${id:2:2} % 254 + 1)).$((16#${id:4:2})).$((16#${id:6:2} % 254 + 1))"
pods="10.$((16#${id:8:2} % 128 + 128)).$((16#${id:4:2}))"
api_port=16443 etcd_port=12379 peer_port=12380 kubelet_port=10250

check_network() {
  local taken
  taken=$(ip -o route show root "$pods.0/24" | grep -v "dev $id" || true)
  [ -z "$taken" ] || fail "the network $pods.0/24 is in use: $taken" "name another folder for the cluster"
  for port in $api_port $etcd_port $peer_port $kubelet_port; do
    ! (exec 3<>"/dev/tcp/$address/$port") 2>/dev/null ||
      fail "something else listens on $address:$port" "name another folder for the cluster"
  done
}

# Pairs end with their pods' namespaces, the bridge does not.
remove_network() {
  local link
  for link in $(ip -o link show master "$id" 2>/dev/null | sed 's/^[0-9]*: \([^:@]*\).*/\1/'); do
    ip link delete "$link" 2>/dev/null || true
  done
  ip link delete "$id" 2>/dev/null || true
}
