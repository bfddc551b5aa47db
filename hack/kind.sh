#!/usr/bin/env bash
# Runs the e2e tests on kind, with Docker; the tests use it as the command that reaches the nodes too.
#
#   hack/kind.sh                        the tests twice, each on its own cluster: helm with kube-proxy in nftables
#                                       mode, kustomize in iptables mode
#   hack/kind.sh exec NODE -- CMD...    run CMD on a node
#   hack/kind.sh reboot NODE            restart a node
#   hack/kind.sh add                    exits with 3: kind can't
#   hack/kind.sh outside -- CMD...      run CMD here, which is outside of the cluster
#
# It expects kind, docker, kubectl and helm in bin/e2e or in PATH, and the images as archives in bin/.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cluster=plainroute-e2e
export PATH=$root/bin/e2e:$PATH

die() {
  printf 'kind: %s\n' "$*" >&2
  exit 1
}

# config describes three nodes without a network, with kube-proxy in mode $1.
config() {
  cat <<YAML
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
networking:
  ipFamily: dual
  disableDefaultCNI: true
  kubeProxyMode: $1
  podSubnet: 10.244.0.0/16,fd00:10:244::/56
  serviceSubnet: 10.96.0.0/16,fd00:10:96::/112
nodes: [{role: control-plane}, {role: worker}, {role: worker}]
YAML
}

down() { kind delete cluster --name "$cluster" --kubeconfig "$KUBECONFIG"; }

# story runs the tests with install method $1 and kube-proxy in mode $2.
story() {
  config "$2" | kind create cluster --name "$cluster" --config - --kubeconfig "$KUBECONFIG"
  local image
  for image in "$root"/bin/plainroute-image.tar "$root"/bin/e2e/images/*.tar; do
    kind load image-archive "$image" --name "$cluster"
  done
  # The tests bring a DNS server of their own, and an uninstall needs a bridge without other pods.
  kubectl --namespace kube-system delete deployment,service --selector k8s-app=kube-dns
  kubectl delete namespace local-path-storage
  "$root/bin/e2e/e2e.test" -test.v -test.timeout=30m -test.run '^TestStory$' -root "$root" -install "$1"
  down
}

both() {
  local needed
  for needed in docker kind kubectl helm; do
    command -v "$needed" >/dev/null || die "$needed is needed, and is neither in bin/e2e nor in PATH"
  done
  [[ -d /proc/sys/net/bridge ]] || die "br_netfilter isn't loaded here, and the nodes share this kernel: modprobe br_netfilter"
  KUBECONFIG=$(mktemp)
  trap 'down; rm -f "$KUBECONFIG"' EXIT
  export KUBECONFIG E2E=1 E2E_NODES="$root/hack/kind.sh" E2E_OUTSIDE="$root/hack/kind.sh outside --"
  story helm nftables
  story kustomize iptables
}

case ${1-} in
  "") both ;;
  exec) docker exec --interactive "$2" "${@:4}" ;;
  reboot) docker restart "$2" >/dev/null ;;
  add) exit 3 ;;
  outside) exec "${@:3}" ;;
  *) die "there is no command $1, see the head of this script" ;;
esac
