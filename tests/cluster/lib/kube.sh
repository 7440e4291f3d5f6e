# The Kubernetes program: built once from its modules, kept by what it is built of.
# shellcheck shell=bash

kube_version=$(sed -n 's|^\tk8s.io/kubernetes ||p' "$here/kube/go.mod")
kube="$cache/kube-$kube_version-$(cat "$here"/kube/go.* "$here"/kube/*.go | sha256sum | cut -c1-8)/kube"

build_kube() {
  [ ! -x "$kube" ] || return 0
  mkdir -p "$(dirname "$kube")"
  # Of two that want it, one builds.
  exec 8>"$cache/kube.lock"
  flock 8
  if [ ! -x "$kube" ]; then
    PATH="$PATH:/usr/local/go/bin"
    command -v go >/dev/null || fail "missing: go" "install Go 1.24 or newer: https://go.dev/dl"
    say "building Kubernetes $kube_version (some minutes, once)"
    local numbers=${kube_version#v} version=k8s.io/component-base/version objects
    # Gigabytes, and of no use once the program is there.
    objects=$(mktemp -d)
    (cd "$here/kube" && GOCACHE=$objects CGO_ENABLED=0 GOFLAGS=-buildvcs=false go build -trimpath \
      -ldflags "-s -w -X $version.gitVersion=$kube_version -X $version.gitMajor=1 -X $version.gitMinor=$(cut -d. -f2 <<<"$numbers")" \
      -o "$kube.unfinished" .) >&2 || fail "Kubernetes could not be built" "see the messages of go above"
    rm -rf "$objects"
    mv "$kube.unfinished" "$kube"
  fi
  exec 8>&-
}
