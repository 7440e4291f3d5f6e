# The cluster's processes. Each daemon has a control group of its own, and so have the containers that the kubelet makes:
#
#   CGROUP/ID/daemons/NAME   one daemon, and what it started
#   CGROUP/ID/kubepods/...   the pods
#
# Membership cannot be forged by a process number that was given out again: what is in the group is the cluster's, and
# when every group is empty nothing of it runs. All daemons live in one mount namespace, which ends with the last of
# them and takes every mount along.
# shellcheck shell=bash

# The mounted hierarchies, of version 1 and 2.
hierarchies() { awk '$3 == "cgroup" || $3 == "cgroup2" { print $2 }' /proc/mounts; }

# The hierarchy that daemons are found in: any would do, if everything is in it.
daemons="$(hierarchies | grep -E '/pids(,|$)|^/sys/fs/cgroup$' | head -n 1)/$id/daemons"

make_cgroups() {
  local h file
  while read -r h; do
    mkdir -p "$h/$id"
    # Version 1: an empty set of processors takes no process.
    for file in cpuset.cpus cpuset.mems; do
      [ ! -e "$h/$id/$file" ] || cat "$h/$file" >"$h/$id/$file"
    done
    # Version 2: what children may limit is switched on from above.
    [ ! -e "$h/cgroup.subtree_control" ] || delegate "$h" "$h/$id"
  done < <(hierarchies)
  mkdir -p "$daemons"
}

delegate() {
  local group controller
  for group in "$@"; do
    for controller in $(cat "$group/cgroup.controllers"); do
      echo "+$controller" >"$group/cgroup.subtree_control" 2>/dev/null || true
    done
  done
}

# start NAME COMMAND...: a daemon, in the control group of its name.
start() {
  local name=$1
  shift
  mkdir -p "$daemons/$name"
  (
    echo "$BASHPID" >"$daemons/$name/cgroup.procs"
    exec 9<&- setsid "$@" </dev/null >>"$folder/logs/$name.log" 2>&1
  ) &
  echo $! >"$folder/run/$name"
}

# start_inside NAME COMMAND...: a daemon that sees the cluster's mounts.
start_inside() {
  local name=$1
  shift
  start "$name" nsenter --mount="/proc/$(daemon holder)/ns/mnt" -- "$@"
}

# daemon NAME: the daemon's process number, if it lives.
daemon() {
  local pid
  pid=$(cat "$folder/run/$1" 2>/dev/null) && grep -qx "$pid" "$daemons/$1/cgroup.procs" 2>/dev/null && echo "$pid"
}

# Whether every daemon that was started lives; says which does not.
daemons_live() {
  local name
  for name in "$folder"/run/*; do
    daemon "$(basename "$name")" >/dev/null || { echo "$(basename "$name")" && return 1; }
  done
}

# signal SIGNAL NAME: to the daemon itself, not to what it started.
signal() {
  local pid
  pid=$(daemon "$2") || fail "$2 does not run" "tests/cluster/ctl $folder start $2"
  kill -s "$1" "$pid"
}

# Every process of the cluster.
processes() {
  local h
  while read -r h; do
    [ ! -d "$h/$id" ] || find "$h/$id" -name cgroup.procs -exec cat {} + 2>/dev/null
  done < <(hierarchies) | sort -nu
}

thaw() {
  local file
  while read -r file; do
    case "$file" in
      */freezer.state) echo THAWED >"$file" ;;
      *) echo 0 >"$file" ;;
    esac 2>/dev/null || true
  done < <(hierarchies | while read -r h; do
    [ ! -d "$h/$id" ] || find "$h/$id" '(' -name freezer.state -o -name cgroup.freeze ')' 2>/dev/null
  done)
}

# Kills every process of the cluster, again and again while there are any: what is being killed may still start others.
kill_all() {
  local deadline=$((SECONDS + 60)) pids
  while mapfile -t pids < <(processes) && [ ${#pids[@]} -gt 0 ]; do
    [ "$SECONDS" -lt "$deadline" ] || fail "these processes do not end: ${pids[*]}" "look at /proc/${pids[0]}/stack"
    kill -KILL "${pids[@]}" 2>/dev/null || true
    thaw
    sleep 0.05
  done
}

remove_cgroups() {
  local h
  while read -r h; do
    [ ! -d "$h/$id" ] || find "$h/$id" -depth -type d -exec rmdir {} + || true
  done < <(hierarchies)
}

# Ends all that runs and removes all that is there, but for the mark that the folder is a cluster's.
clean() {
  kill_all
  remove_network
  remove_cgroups
  find "$folder" -mindepth 1 -maxdepth 1 ! -name .cluster -exec rm -rf --one-file-system {} +
}
