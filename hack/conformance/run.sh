#!/usr/bin/env bash
# Installs plainroute and CoreDNS on a cluster and runs Kubernetes' network conformance tests there:
#
#   bin/cluster run -- hack/conformance/run.sh TABLE [flags of the tests...]
#
# The result of each test is written to TABLE, in Markdown, and failures in full to TABLE.log.
# `make conformance` makes the binaries.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# reachable gives the API server's host, where this script runs, a route to each node's pods: tests reach pods through the API
# server, and this one is on no node. A router of that network would have the routes.
reachable() {
  local node pods addresses family
  for node in $(kubectl get nodes -o name); do
    read -ra pods <<<"$(kubectl get "$node" -o 'jsonpath={.spec.podCIDRs[*]}')"
    read -ra addresses <<<"$(kubectl get "$node" -o 'jsonpath={.status.addresses[?(@.type=="InternalIP")].address}')"
    for family in 0 1; do
      ip route replace "${pods[$family]}" via "${addresses[$family]}"
    done
  done
}

table=$1
shift
# The ranges are those of test/e2e/kubelets.
kubectl apply -f charts/plainroute/namespace.yaml >/dev/null
bin/tools/helm install plainroute charts/plainroute --namespace plainroute-system \
  --set 'clusterCIDR={10.244.0.0/16,fd00:10:244::/56}' --set 'serviceCIDR={10.96.0.0/16,fd00:10:96::/112}' >/dev/null
kubectl wait --for=condition=Ready nodes --all --timeout=2m
reachable
kubectl apply -f test/e2e/manifests/coredns.yaml >/dev/null
kubectl -n kube-system rollout status deployment/coredns --timeout=2m

KUBE_TEST_REPO_LIST=$PWD/hack/conformance/repos.yaml bin/e2e/conformance/tests \
  --kubeconfig="$KUBECONFIG" --provider=local --num-nodes=3 --disable-log-dump --ginkgo.no-color --ginkgo.succinct \
  --ginkgo.timeout=1h --ginkgo.focus='\[sig-network\].*\[Conformance\]' --table="$table" "$@" >"$table.log" 2>&1 &
tests=$!
trap 'kill "$tests" 2>/dev/null || true' EXIT
while kill -0 "$tests" 2>/dev/null; do
  sleep 15
  printf '  %d tests done, %d of them failed\n' "$(grep -o '•' "$table.log" | wc -l)" "$(grep -c '^• \[FAILED\]' "$table.log" || true)"
done
trap - EXIT
wait "$tests" || {
  echo "conformance: tests failed; for details see $table.log"
  exit 1
}
