# What the cluster's commands share. Sourced, never run: it reads the state folder from the first argument, and sets
# the names that belong to it.
# shellcheck shell=bash

called_in=$PWD
. "$(dirname "${BASH_SOURCE[0]}")/../../../scripts/lib/common.sh"
# shellcheck source=../../../scripts/lib/go.sh
. "$root/scripts/lib/go.sh"
PATH="$PATH:/usr/sbin:/sbin"
here="$root/tests/cluster"

# The state folder. Everything that the cluster is lies in it; without an argument each checkout has one of its own.
folder=$(cd "$called_in" && realpath -m -- "${1:-${TEST_CLUSTER_DIR:-$cache/clusters/$(printf %s "$root" | sha256sum | cut -c1-8)}}")
# A Unix socket's address ends at 107 bytes, and the folder holds one.
[ ${#folder} -le 80 ] || fail "the path $folder is too long for the sockets in it" "name a folder of at most 80 bytes"

# The cluster's name outside its folder (control group, network link) comes from the folder's path, so that whatever a
# crash left is found again even where the folder is gone.
id="em$(printf %s "$folder" | sha256sum | cut -c1-8)"

# One command at a time on one folder. The lock is on the folder itself, which leaves no file behind; a folder that went
# away meanwhile is no lock.
lock() {
  while :; do
    mkdir -p "$folder"
    exec 9<"$folder"
    flock 9
    [ "$(stat -Lc %i /proc/self/fd/9)" != "$(stat -c %i "$folder" 2>/dev/null)" ] || break
  done
  # Nothing but a cluster's folder is ever emptied.
  [ -e "$folder/.cluster" ] || [ -z "$(ls -A "$folder")" ] || fail "$folder is not empty, and no cluster's" "name another folder"
  touch "$folder/.cluster"
}

# kubectl ARGUMENTS...: as the cluster's administrator.
kubectl() { "$kube" kubectl --kubeconfig "$folder/kubeconfig" "$@"; }

# await SECONDS WHAT COMMAND...: until the command succeeds.
await() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || fail "$what took too long" "see the logs in $folder/logs"
    sleep 0.1
  done
}

# shellcheck source=lib/network.sh
. "$here/lib/network.sh"
# shellcheck source=lib/daemons.sh
. "$here/lib/daemons.sh"
# shellcheck source=lib/kube.sh
. "$here/lib/kube.sh"
# shellcheck source=lib/config.sh
. "$here/lib/config.sh"
# shellcheck source=lib/parts.sh
. "$here/lib/parts.sh"
# shellcheck source=lib/images.sh
. "$here/lib/images.sh"
