# What the scripts share. Sourced, never run: it sets the folder, the colours and the few functions below.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root" || exit 1
export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-auto}"

# Says what happens, on standard error, so that standard output stays for results.
say() { printf '\n== %s\n' "$*" >&2; }

# Ends the script: what is wrong, and what to do next.
fail() {
  printf 'error: %s\n' "$1" >&2
  [ -z "${2:-}" ] || printf '  next: %s\n' "$2" >&2
  exit 1
}

# How a command is run as root: as it is, where this is root already.
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)

# packages THING=PACKAGE...: installs the Debian packages whose commands or files (absolute paths) are missing. Needs to
# be root, or to have sudo, only if one is.
packages() {
  local pair missing=()
  for pair in "$@"; do
    [ -e "${pair%%=*}" ] || PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%=*}" >/dev/null 2>&1 ||
      missing+=("${pair#*=}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null 2>&1 ||
    fail "missing: ${missing[*]}" "install these packages as root"
  command -v apt-get >/dev/null 2>&1 || fail "missing: ${missing[*]}" "install these packages"
  say "installing ${missing[*]}"
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300)
  # The lists of a fresh machine are empty: read them and try again.
  "${apt[@]}" install --no-install-recommends "${missing[@]}" >&2 ||
    { "${apt[@]}" update >&2 && "${apt[@]}" install --no-install-recommends "${missing[@]}" >&2; } ||
    fail "the packages ${missing[*]} could not be installed" "install them by hand and run this again"
}

# unpacked NAME PACKAGE...: fetches Debian packages into a folder of the user's cache, once, without installing them:
# installed, a server would be started and reached by all the network. Prints the folder.
unpacked() {
  local cache=${XDG_CACHE_HOME:-$HOME/.cache}/environment-manager name=$1 work package
  shift
  mkdir -p "$cache"
  # A subshell, so that the lock and the trap end with it.
  (
    exec 9>"$cache/$name.lock"
    flock 9
    [ ! -d "$cache/$name" ] || exit 0
    say "fetching $*"
    work=$(mktemp -d "$cache/making.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    # The fetching user of apt may write there.
    chmod 755 "$work" && cd "$work"
    # The lists of a fresh machine are empty: read them and try again.
    { apt-get -q download "$@" || { "${as_root[@]}" apt-get -q update && apt-get -q download "$@"; }; } >&2 ||
      fail "the packages $* cannot be fetched" "apt-get update"
    for package in ./*.deb; do
      dpkg -x "$package" made || fail "the package $package cannot be unpacked"
    done
    mv made "$cache/$name"
  ) || return 1
  echo "$cache/$name"
}

# ordinary_user NAME: a user of this machine with subordinate ids, made if he is not there; he has no password and owns
# nothing but his home. Needs to be root.
ordinary_user() {
  id -u "$1" >/dev/null 2>&1 || useradd --create-home --shell /bin/sh "$1" ||
    fail "the user $1 could not be made" "useradd --create-home $1"
  local kind first
  for kind in uid gid; do
    grep -q "^$1:" "/etc/sub$kind" 2>/dev/null && continue
    # Behind all that are given away.
    first=$(awk -F: '$2 + $3 > n { n = $2 + $3 } END { print (n < 100000 ? 100000 : n) }' "/etc/sub$kind" 2>/dev/null || echo 100000)
    usermod "--add-sub${kind}s" "$first-$((first + 65535))" "$1"
  done
}

# The Rust toolchain that rust-toolchain.toml names; rustup fetches it, and is itself fetched where it is missing.
toolchain() {
  PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
  export PATH
  packages cc=gcc /usr/include/stdlib.h=libc6-dev
  if ! command -v cargo >/dev/null 2>&1; then
    packages curl=curl /etc/ssl/certs/ca-certificates.crt=ca-certificates
    say "installing rustup"
    curl --proto '=https' --tlsv1.2 -fsS https://sh.rustup.rs |
      sh -s -- -y --profile minimal --default-toolchain none --no-modify-path >&2 ||
      fail "rustup could not be installed" "install Rust by hand: https://rustup.rs"
  fi
  # With rustup, the first use of the toolchain installs it.
  cargo --version >&2 || fail "cargo does not work" "rustup toolchain install"
}

# Builds the runner once and names it in EM_RUNNER_BIN, so that no build of the worker builds it again.
runner() {
  [ -z "${EM_RUNNER_BIN:-}" ] || return 0
  local host folder
  host=$(rustc -vV | sed -n 's/^host: //p')
  folder="${CARGO_TARGET_DIR:-$root/target}"
  RUSTFLAGS="-C target-feature=+crt-static" \
    cargo build --locked --profile embedded --package runner --bin em-runner --target "$host" >&2 ||
    fail "the runner could not be built"
  export EM_RUNNER_BIN="$folder/$host/embedded/em-runner"
}
