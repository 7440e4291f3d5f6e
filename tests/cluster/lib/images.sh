# The images of the tests, made of what this machine and Debian's packages have: no registry is asked.
# shellcheck shell=bash

small_image=environment-manager.test/small:1
other_user_image=environment-manager.test/other-user:1
bare_image=environment-manager.test/bare:1
debian_image=environment-manager.test/debian:12
pause_image=environment-manager.test/pause:1
runner_image="environment-manager:$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -n 1)"

# archive NAME LAYER FILE COMMAND...: an image of one layer, as a docker archive; its user is image_user, root where that
# is not set.
archive() {
  local name=$1 layer=$2 file=$3 digest command work
  shift 3
  work=$(mktemp -d)
  digest=$(sha256sum "$layer" | cut -d' ' -f1)
  command=$(printf '"%s",' "$@")
  cat >"$work/config.json" <<END
{"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["sha256:$digest"]}, "history": [{}],
 "config": {"User": "${image_user:-}", "Cmd": [${command%,}], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}}
END
  echo "[{\"Config\": \"config.json\", \"RepoTags\": [\"$name\"], \"Layers\": [\"layer.tar\"]}]" >"$work/manifest.json"
  ln -s "$layer" "$work/layer.tar"
  tar -C "$work" --dereference -cf "$file.unfinished" manifest.json config.json layer.tar
  mv "$file.unfinished" "$file"
  rm -rf "$work"
}

# layer FOLDER FILE: a folder as a layer, the same bytes each time.
layer() { tar -C "$1" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$2" .; }

# load FILE: an archive into the cluster.
load() { ctr -a "$folder/containerd.sock" -n k8s.io images import "$1" >&2 || fail "the image $1 could not be loaded"; }

# has IMAGE: whether the cluster has it.
has() { [ -n "$(ctr -a "$folder/containerd.sock" -n k8s.io images list -q "name==$1")" ]; }

busybox_root() {
  local tool
  mkdir -p "$1/bin" "$1/etc" "$1/tmp"
  chmod 1777 "$1/tmp"
  cp "$(command -v busybox)" "$1/bin/busybox"
  for tool in $(busybox --list | grep -vx busybox); do
    ln -sf busybox "$1/bin/$tool"
  done
  printf 'root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/app:/bin/sh\n' >"$1/etc/passwd"
  printf 'root:x:0:\nuser:x:1000:\n' >"$1/etc/group"
}

# A real Debian with Python and pip. It takes minutes to make, so it is made once and kept.
debian_archive() {
  local file="$cache/images/debian-12.tar" work
  if [ ! -e "$file" ]; then
    mkdir -p "$cache/images"
    exec 8>"$cache/images/debian.lock"
    flock 8
    if [ ! -e "$file" ]; then
      say "making a Debian image (some minutes, once)"
      work=$(mktemp -d)
      mmdebstrap --quiet --variant=minbase --include=python3,python3-pip,python3-venv,procps,ca-certificates \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        bookworm "$work/root.tar" >&2 || fail "the Debian image could not be made" "see the messages of mmdebstrap above"
      archive "$debian_image" "$work/root.tar" "$file" /bin/bash
      rm -rf "$work"
    fi
    exec 8>&-
  fi
  echo "$file"
}

# An image of one program that is no shell.
load_bare() {
  local work
  work=$(mktemp -d)
  install -D -m 0755 "$(command -v busybox)" "$work/root/cat"
  layer "$work/root" "$work/layer.tar"
  archive "$bare_image" "$work/layer.tar" "$work/bare.tar" /cat
  load "$work/bare.tar"
  rm -rf "$work"
}

# What every pod needs, the small image, and the same with a user of its own.
load_small() {
  local work
  work=$(mktemp -d)
  busybox_root "$work/root"
  layer "$work/root" "$work/layer.tar"
  archive "$pause_image" "$work/layer.tar" "$work/pause.tar" /bin/sleep 2147483647
  archive "$small_image" "$work/layer.tar" "$work/small.tar" /bin/sh
  image_user=33 archive "$other_user_image" "$work/layer.tar" "$work/other-user.tar" /bin/sh
  load "$work/pause.tar"
  load "$work/small.tar"
  load "$work/other-user.tar"
  rm -rf "$work"
}

# The project's own image as far as an environment needs it: the runner.
load_runner() {
  local work
  work=$(mktemp -d)
  install -D -m 0755 "$EM_RUNNER_BIN" "$work/root/usr/local/bin/em-runner"
  layer "$work/root" "$work/layer.tar"
  archive "$runner_image" "$work/layer.tar" "$work/runner.tar" em-runner --version
  load "$work/runner.tar"
  rm -rf "$work"
}
