#!/usr/bin/env bash
# Runs a command without output of its own, and prints a line every 10 s:
#
#   hack/progress.sh "vetting" go vet ./...
set -euo pipefail

what=$1
shift
printf '%s\n' "$what"

# The clock ends with this script, even if that is killed. It waits for input that never comes: a sleep would outlive
# the script and keep the caller's pipe open.
(
  exec 3<> <(:)
  while ! read -r -t 10 -u 3 && kill -0 $$ 2>/dev/null; do
    printf '  %s: %d s\n' "$what" "$SECONDS"
  done
) &
clock=$!
trap 'kill "$clock" 2>/dev/null' EXIT
"$@"
