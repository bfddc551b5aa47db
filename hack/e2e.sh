#!/usr/bin/env bash
# Runs test/e2e on clusters of real kubelets, a cluster for each run:
#
#   hack/e2e.sh [flags of the tests...]              by Helm with kube-proxy in nftables mode and nodes on one LAN, then by
#                                                    kustomize with iptables and nodes on two LANs with a router between
#   ONLY=helm|kustomize hack/e2e.sh [flags...]       one of them
#   LANS=1|2 hack/e2e.sh [flags...]                  each with so many LANs
#
# The exit code is 75 if this machine can't run such a cluster; the reason is printed. `make e2e` makes the binaries.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# As in sysexits.h, and as bin/cluster uses it.
readonly not_here=75

export E2E=1
table=()

# story runs the tests with install method $1, kube-proxy in mode $2 and nodes on $3 LANs. Further arguments are the tests'.
story() {
  local install=$1 mode=$2 lans=$3 start=$SECONDS code=0
  shift 3
  if ((lans > 1)); then
    set -- -cross-subnet "$@"
  fi
  echo "e2e: $install, kube-proxy in $mode mode, LANs: $lans"
  bin/cluster run --proxy-mode "$mode" --lans "$lans" --logs "bin/e2e/logs/$install" -- \
    bin/e2e/e2e.test -test.v -test.timeout=20m -test.run '^TestStory$' -root . -install "$install" -upgrade-tag upgrade "$@" || code=$?
  if ((code == not_here)); then
    echo "e2e: SKIPPED, see above"
    exit "$not_here"
  fi
  table+=("$(printf '%-10s %-10s LANs: %d %4d s  %s' "$install" "$mode" "$lans" $((SECONDS - start)) "$( ((code == 0)) && echo passed || echo FAILED)")")
  return "$code"
}

failed=0
[[ ${ONLY:-helm} != helm ]] || story helm nftables "${LANS:-1}" "$@" || failed=1
[[ ${ONLY:-kustomize} != kustomize ]] || story kustomize iptables "${LANS:-2}" "$@" || failed=1
printf 'e2e: %s\n' "${table[@]}"
exit "$failed"
