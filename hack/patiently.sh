#!/usr/bin/env bash
# Runs a command that may be silent for long, with a line every 10 s:
#
#   hack/patiently.sh "vetting" go vet ./...
set -euo pipefail

what=$1
shift
printf '%s\n' "$what"

# The clock ends with this script, however that ends. It waits for input that never comes, rather than for a sleep,
# which would outlive it and keep the caller's pipe open.
(
  exec 3<> <(:)
  while ! read -r -t 10 -u 3 && kill -0 $$ 2>/dev/null; do
    printf '  %s: %d s\n' "$what" "$SECONDS"
  done
) &
clock=$!
trap 'kill "$clock" 2>/dev/null' EXIT
"$@"
