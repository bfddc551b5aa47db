#!/usr/bin/env bash
# Runs test/e2e on clusters of real kubelets, a cluster for each run:
#
#   hack/e2e.sh [flags of the tests...]              by Helm with kube-proxy in nftables mode, then by kustomize with
#                                                    iptables
#   ONLY=helm|kustomize hack/e2e.sh [flags...]       one of them
#
# The exit code is 75 if this machine can't run such a cluster; the reason is printed. `make e2e` makes the binaries.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# As in sysexits.h, and as bin/cluster uses it.
readonly not_here=75

export E2E=1
table=()

# story runs the tests with install method $1 and kube-proxy in mode $2. Further arguments are the tests'.
story() {
  local install=$1 mode=$2 start=$SECONDS code=0
  shift 2
  echo "e2e: $install, kube-proxy in $mode mode"
  bin/cluster run --proxy-mode "$mode" --logs "bin/e2e/logs/$install" -- \
    bin/e2e/e2e.test -test.v -test.timeout=20m -test.run '^TestStory$' -root . -install "$install" -upgrade-tag upgrade "$@" || code=$?
  if ((code == not_here)); then
    echo "e2e: SKIPPED, see above"
    exit "$not_here"
  fi
  table+=("$(printf '%-10s %-10s %4d s  %s' "$install" "$mode" $((SECONDS - start)) "$( ((code == 0)) && echo passed || echo FAILED)")")
  return "$code"
}

failed=0
[[ ${ONLY:-helm} != helm ]] || story helm nftables "$@" || failed=1
[[ ${ONLY:-kustomize} != kustomize ]] || story kustomize iptables "$@" || failed=1
printf 'e2e: %s\n' "${table[@]}"
exit "$failed"
