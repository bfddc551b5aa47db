#!/usr/bin/env bash
# Gets or builds the binaries that the demo, the tests and the linter need, below bin/:
#
#   hack/binaries.sh                  etcd, kube-apiserver and the CNI plugins
#   hack/binaries.sh golangci-lint    the linter
#   hack/binaries.sh gotestsum        the test runner, with a summary
#   hack/binaries.sh govulncheck      the vulnerability scanner
#   hack/binaries.sh image            the builder of container images, from hack/image
#   hack/binaries.sh helm kustomize   the renderers of the manifests
#   hack/binaries.sh actionlint       the linter of .github/workflows
#   hack/binaries.sh krew             krew's check of the manifest of the kubectl plugin
#   hack/binaries.sh prometheus       Prometheus and promtool, for the tests of metrics, alerts and the dashboard
#   hack/binaries.sh coredns ingress  the cluster DNS and the Ingress controller of the tests on a real cluster, and
#                                     their images
#   hack/binaries.sh test             what single tests of `make test` run: helm, kustomize, prometheus, gotestsum,
#                                     kube-controller-manager, and of Debian's packages nft and iptables
#   hack/binaries.sh kubelets         all other parts of that cluster's nodes
#   hack/binaries.sh conformance      Kubernetes' own network tests, and the image of their pods
#   hack/binaries.sh e2e              all that those tests need, from the API server to Helm
#
# etcd and kube-apiserver come from $KUBEBUILDER_ASSETS if it holds both; else from an earlier run; else from
# setup-envtest, where its download works; else they are built from Go modules. The versions are those of the go.mod
# files below hack/: a binary whose go.mod or go.sum has changed is built again.
#
# Several runs at once wait for each other, and a run that is interrupted leaves nothing half done: each binary gets
# its name only when it is complete.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=$root/bin
k8s=$bin/k8s
cni=$bin/cni
tools=$bin/tools
e2e=$bin/e2e
child=

say() { printf '%s\n' "$*"; }
die() {
  printf 'binaries: %s\n' "$*" >&2
  exit 1
}

# sum prints what a binary made from the module hack/$1 depends on. A change of the flags below is a new recipe.
sum() {
  {
    echo "recipe 1"
    cat "$root/hack/$1/go.mod" "$root/hack/$1/go.sum"
    go env GOVERSION GOOS GOARCH
    find "$root/hack/$1" -name '*.go' -print0 | sort -z | xargs -0r cat # of a module with its own code
  } | sha256sum | cut -d' ' -f1
}

# fresh reports whether the file $1 exists, and was built from the current hack/$2.
fresh() {
  local stamp=${1%/*}/.${1##*/}.stamp
  [[ -x $1 && -f $stamp && $(<"$stamp") == "$(sum "$2")" ]]
}

# finish gives the complete file $1 its name $2, and remembers that hack/$3 made it. The order matters: a name without
# a stamp is made again, a stamp without its binary would be believed.
finish() {
  local stamp=${2%/*}/.${2##*/}.stamp
  rm -f "$stamp"
  mv -fT "$1" "$2"
  sum "$3" >"$stamp.tmp"
  mv -fT "$stamp.tmp" "$stamp"
}

# build makes the binary $1 from package $3 of the module hack/$2, with further flags of go build.
build() {
  local out=$1 module=$2 package=$3
  shift 3
  if fresh "$out" "$module"; then
    return
  fi
  local name=${out##*/} tmp=${out%/*}/.${out##*/}.tmp log=${out%/*}/.${out##*/}.log start=$SECONDS
  say "building $name from $package"
  mkdir -p "${out%/*}"
  CGO_ENABLED=0 GOWORK=off go build -C "$root/hack/$module" -v -mod=readonly -trimpath -buildvcs=false \
    "$@" -o "$tmp" "$package" >"$log" 2>&1 &
  child=$!
  watch "$name" "$log" "$start"
  if ! wait "$child"; then
    child=
    grep -v '^go: downloading' "$log" | tail -n 30 >&2 || true
    rm -f "$tmp"
    die "building $name failed after $((SECONDS - start)) s; the whole log is $log"
  fi
  child=
  finish "$tmp" "$out" "$module"
  rm -f "$log"
  say "built $name in $((SECONDS - start)) s"
}

# watch prints a line every 10 s while the child runs. go build prints each package as it comes to it.
watch() {
  local name=$1 log=$2 start=$3 next=$((SECONDS + 10)) compiled last
  while kill -0 "$child" 2>/dev/null; do
    sleep 0.2
    if ((SECONDS < next)); then
      continue
    fi
    next=$((SECONDS + 10))
    compiled=$(grep -cv '^go: ' "$log" || true)
    last=$(tail -n 1 "$log")
    last=${last#go: }
    say "  $name: $((SECONDS - start)) s, $compiled packages compiled; now: ${last:-linking}"
  done
}

# from_assets links etcd and kube-apiserver of the folder $1.
from_assets() {
  local name
  for name in etcd kube-apiserver; do
    rm -f "$k8s/.$name.stamp"
    ln -sfn "$1/$name" "$k8s/.$name.tmp"
    mv -fT "$k8s/.$name.tmp" "$k8s/$name"
  done
}

complete() { [[ -x $1/etcd && -x $1/kube-apiserver ]]; }

# pinned prints the version of the module $2 that hack/$1 pins, as in v1.37.2.
pinned() {
  awk -v module="$2" '$1 == module { print $2; exit } $1 == "require" && $2 == module { print $3; exit }' "$root/hack/$1/go.mod"
}

# download gets both from setup-envtest. Failing is cheap: the first limit is for a list of versions that is a few
# KiB long, and only when that has come is there something worth waiting for.
download() {
  local version dir name
  version=$(pinned kubernetes k8s.io/kubernetes)
  version=${version#v}
  version=${version%.*}.x
  build "$tools/setup-envtest" tools sigs.k8s.io/controller-runtime/tools/setup-envtest -ldflags="-s -w"
  if ! timeout 20 "$tools/setup-envtest" list "$version" >/dev/null 2>&1; then
    say "setup-envtest can't reach its downloads from here; building from modules instead"
    return 1
  fi
  say "downloading etcd and kube-apiserver $version with setup-envtest"
  if ! dir=$(timeout 180 "$tools/setup-envtest" use "$version" --bin-dir "$bin/envtest" --print path 2>&1) || ! complete "$dir"; then
    say "setup-envtest did not get $version: $(tail -n 1 <<<"$dir"); building from modules instead"
    return 1
  fi
  for name in etcd kube-apiserver; do
    ln -sfn "$dir/$name" "$k8s/.$name.tmp"
  done
  finish "$k8s/.etcd.tmp" "$k8s/etcd" etcd
  finish "$k8s/.kube-apiserver.tmp" "$k8s/kube-apiserver" kubernetes
}

control_plane() {
  mkdir -p "$k8s"
  local given=${KUBEBUILDER_ASSETS:-}
  if [[ -n $given && $(realpath -m "$given") != "$(realpath -m "$k8s")" ]]; then
    if complete "$given"; then
      say "etcd and kube-apiserver: from KUBEBUILDER_ASSETS, $given"
      from_assets "$(realpath "$given")"
      return
    fi
    say "KUBEBUILDER_ASSETS is $given, which lacks etcd or kube-apiserver: not used"
  fi
  if fresh "$k8s/etcd" etcd && fresh "$k8s/kube-apiserver" kubernetes; then
    return
  fi
  if download; then
    return
  fi
  build "$k8s/etcd" etcd go.etcd.io/etcd/server/v3 -ldflags="-s -w"
  build "$k8s/kube-apiserver" kubernetes k8s.io/kubernetes/cmd/kube-apiserver \
    -ldflags="-s -w -X k8s.io/component-base/version.gitVersion=$(pinned kubernetes k8s.io/kubernetes)"
}

# plugins builds those that hack/cni lists as tools. They print their version, as official ones do.
plugins() {
  local of=github.com/containernetworking/plugins package version
  version=$(pinned cni "$of")
  for package in $(go list -C "$root/hack/cni" tool); do
    build "$cni/${package##*/}" cni "$package" -ldflags="-s -w -X $of/pkg/utils/buildversion.BuildVersion=$version"
  done
}

# served builds a server for pods of the real cluster, from the module hack/$1, and its image localhost/$1:1.
served() {
  local program=$e2e/$1 archive=$e2e/images/$1.tar
  build "$program" "$1" . -ldflags="-s -w"
  if [[ $archive -nt $program ]]; then
    return
  fi
  build "$tools/image" image . -ldflags="-s -w"
  mkdir -p "${archive%/*}"
  "$tools/image" -o "$archive" -tag "localhost/$1:1" -entrypoint "/$1" "$program:/$1"
}

# component builds a program of Kubernetes.
component() {
  build "$e2e/$1" kubernetes "k8s.io/kubernetes/cmd/$1" \
    -ldflags="-s -w -X k8s.io/component-base/version.gitVersion=$(pinned kubernetes k8s.io/kubernetes)"
}

# kubelets builds the components of nodes and of the control plane.
kubelets() {
  local name
  for name in kubelet kube-proxy kube-scheduler kube-controller-manager kubectl; do
    component "$name"
  done
  debian
}

# test_programs gets what single tests run. Without Debian's packages these tests are skipped.
test_programs() {
  make_all helm kustomize prometheus gotestsum
  component kube-controller-manager
  if [[ -n $(command -v apt-get) && -n $(command -v dpkg) ]]; then
    debian
  fi
}

# Of Debian's packages: the container runtime, and what kube-proxy and the portmap plugin call, with their libraries.
packages=(containerd runc libseccomp2 nftables libnftables1 libnftnl11 libjansson4 libmnl0 libedit2 libbsd0 libmd0 libtinfo6
  iptables libxtables12 libip4tc2 libip6tc2 libnfnetlink0 libnetfilter-conntrack3)

# debian unpacks them and installs nothing. The versions are those that this machine's Debian has.
debian() {
  local to=$e2e/debian stamp=$e2e/.debian.stamp tmp=$e2e/.debian.tmp name
  if [[ -f $stamp && $(<"$stamp") == "${packages[*]}" ]]; then
    return
  fi
  [[ -n $(command -v apt-get) && -n $(command -v dpkg) ]] ||
    die "containerd, runc, nftables and iptables come from Debian's packages, and there is no apt-get here"
  say "unpacking ${packages[*]}"
  rm -rf "$tmp" "$to"
  mkdir -p "$tmp/packages" "$tmp/root"
  (cd "$tmp/packages" && fetch) || die "apt-get can't download ${packages[*]}"
  for name in "$tmp"/packages/*.deb; do
    dpkg -x "$name" "$tmp/root"
  done
  # Debian chooses between two kinds of iptables by /etc/alternatives, which unpacking does not make.
  for name in iptables ip6tables iptables-save ip6tables-save iptables-restore ip6tables-restore; do
    ln -sfn xtables-nft-multi "$tmp/root/usr/sbin/$name"
  done
  mv -T "$tmp/root" "$to"
  rm -rf "$tmp"
  echo "${packages[*]}" >"$stamp"
}

# fetch downloads into the current folder; on a machine that has no lists of packages yet, it gets those first.
fetch() {
  local get=(apt-get -qq -o APT::Sandbox::User=root)
  "${get[@]}" download "${packages[@]}" 2>/dev/null || { "${get[@]}" update && "${get[@]}" download "${packages[@]}"; }
}

# conformance builds Kubernetes' network tests, and the image that they use under several names. It is not among those
# in images/, which all clusters load: it is large.
conformance() {
  local to=$e2e/conformance names
  build "$to/tests" conformance . \
    -ldflags="-s -w -X k8s.io/component-base/version.gitVersion=$(pinned conformance k8s.io/kubernetes)"
  build "$to/agnhost" conformance k8s.io/kubernetes/test/images/agnhost -ldflags="-s -w"
  if [[ $to/image.tar -nt $to/agnhost && $to/image.tar -nt $to/tests && $to/image.tar -nt $root/hack/conformance/image.sh &&
    $to/image.tar -nt $root/hack/conformance/repos.yaml ]]; then
    return
  fi
  say "making the image of the conformance tests"
  names=$(KUBE_TEST_REPO_LIST=$root/hack/conformance/repos.yaml "$to/tests" --list-images)
  mapfile -t names < <(grep -E '^localhost/(agnhost|glibc-dns-testing|nginx|pause):' <<<"$names")
  "$root/hack/conformance/image.sh" "$to/image.tar" "$to/agnhost" "${names[@]}"
}

# helm builds Helm. The linker sets its versions; without them it assumes a Kubernetes of years ago.
helm() {
  local client
  client=$(pinned helm k8s.io/client-go)
  client=${client#v0.}
  build "$tools/helm" helm helm.sh/helm/v3/cmd/helm -ldflags="-s -w
    -X helm.sh/helm/v3/internal/version.version=$(pinned helm helm.sh/helm/v3)
    -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=${client%%.*}
    -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor=${client%%.*}"
}

# prometheus builds both without service discovery (and its hundreds of cloud libraries): the tests list their targets.
# The web UI is left out as well.
prometheus() {
  local name
  for name in promtool prometheus; do
    build "$tools/$name" prometheus "github.com/prometheus/prometheus/cmd/$name" -tags=remove_all_sd \
      -ldflags="-s -w -X github.com/prometheus/common/version.Version=$(pinned prometheus github.com/prometheus/prometheus)"
  done
}

make_all() {
  local target
  for target in "$@"; do
    case $target in
      k8s) control_plane ;;
      cni) plugins ;;
      golangci-lint) build "$tools/golangci-lint" tools github.com/golangci/golangci-lint/v2/cmd/golangci-lint -ldflags="-s -w" ;;
      gotestsum) build "$tools/gotestsum" gotestsum gotest.tools/gotestsum -ldflags="-s -w" ;;
      image) build "$tools/image" image . -ldflags="-s -w" ;;
      govulncheck) build "$tools/govulncheck" tools golang.org/x/vuln/cmd/govulncheck -ldflags="-s -w" ;;
      actionlint) build "$tools/actionlint" actionlint github.com/rhysd/actionlint/cmd/actionlint -ldflags="-s -w" ;;
      krew) build "$tools/validate-krew-manifest" krew sigs.k8s.io/krew/cmd/validate-krew-manifest -ldflags="-s -w" ;;
      test) test_programs ;;
      helm) helm ;;
      prometheus) prometheus ;;
      kustomize) build "$tools/kustomize" kustomize sigs.k8s.io/kustomize/kustomize/v5 -ldflags="-s -w" ;;
      coredns | ingress) served "$target" ;;
      conformance) conformance ;;
      kubelets) kubelets ;;
      e2e) make_all k8s cni image helm kustomize coredns ingress kubelets ;;
      *) die "no such binary: $target" ;;
    esac
  done
}

# interrupted ends the running commands, which a shell without job control leaves running.
interrupted() {
  if [[ -n $child ]]; then
    kill "$child" 2>/dev/null || true
    wait "$child" 2>/dev/null || true
  fi
  say "binaries: interrupted" >&2
  exit 130
}

command -v go >/dev/null || die "Go is needed and not on the PATH"
mkdir -p "$bin"
trap interrupted INT TERM HUP
exec 9>"$bin/.lock"
if ! flock --nonblock 9; then
  say "waiting for another run that makes binaries"
  flock 9
fi
find "$bin" -maxdepth 2 -name '.*.tmp' -prune -exec rm -rf {} +
if (($# == 0)); then
  set -- k8s cni
fi
make_all "$@"
