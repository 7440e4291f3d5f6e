# The Kubernetes program: built once from its modules, kept by what it is built of.
# shellcheck shell=bash

kube_version=$(version_of k8s.io/kubernetes "$here/kube")
kube=$(go_program kube "$kube_version" "$here/kube")

build_kube() {
  local numbers=${kube_version#v} version=k8s.io/component-base/version
  build_go "$kube" "$here/kube" . \
    "-X $version.gitVersion=$kube_version -X $version.gitMajor=1 -X $version.gitMinor=$(cut -d. -f2 <<<"$numbers")"
}
