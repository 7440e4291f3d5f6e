# Programs of the tests that are built from their Go modules: once, kept by what they are built of. Sourced, never run.
# shellcheck shell=bash

# What is made once and kept between runs.
cache="${TEST_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/environment-manager}"

# version_of MODULE FOLDER: the version of a module that the go.mod of a folder names.
version_of() { sed -n "s|^\t$1 \(v[^ ]*\).*|\1|p" "$2/go.mod"; }

# go_program NAME VERSION FOLDER: where the program of that folder's module is, or will be.
go_program() {
  echo "$cache/$1-$2-$(find "$3" -maxdepth 1 \( -name 'go.*' -o -name '*.go' \) -print0 | sort -z | xargs -0 cat | sha256sum | cut -c1-8)/$1"
}

# build_go PROGRAM FOLDER PACKAGE LDFLAGS: builds it, unless it is there.
build_go() {
  local program=$1 folder=$2 package=$3 flags=$4 name objects
  [ ! -x "$program" ] || return 0
  name=$(basename "$program")
  mkdir -p "$(dirname "$program")"
  # Of two that want it, one builds.
  exec 8>"$cache/$name.lock"
  flock 8
  if [ ! -x "$program" ]; then
    PATH="$PATH:/usr/local/go/bin"
    command -v go >/dev/null || fail "missing: go" "install Go 1.26 or newer: https://go.dev/dl"
    say "building $name (some minutes, once)"
    # Gigabytes, and of no use once the program is there.
    objects=$(mktemp -d)
    (cd "$folder" && GOCACHE=$objects CGO_ENABLED=0 GOFLAGS=-buildvcs=false go build -trimpath -ldflags "-s -w $flags" \
      -o "$program.unfinished" "$package") >&2 || fail "$name could not be built" "see the messages of go above"
    rm -rf "$objects"
    mv "$program.unfinished" "$program"
  fi
  exec 8>&-
}
