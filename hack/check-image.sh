#!/usr/bin/env bash
# Makes the image a second time, from a copy of the checkout in another folder and with an empty build cache, and fails
# unless it is the same to the byte:
#
#   hack/check-image.sh MADE.tar NAME:TAG VERSION [PLATFORM,...]
set -euo pipefail

made=$(realpath "$1")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
dir=$(mktemp -d)
trap 'chmod -R u+w "$dir" && rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM HUP

mkdir -p "$dir/a copy"
git ls-files -z --cached --others --exclude-standard | tar --null --ignore-failed-read -T - -c | tar -x -C "$dir/a copy"
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
REVISION=${REVISION:-$(git rev-parse HEAD)}
export SOURCE_DATE_EPOCH REVISION GOCACHE=$dir/cache
umask 077

"$dir/a copy/hack/binaries.sh" image
"$dir/a copy/hack/make-image.sh" "$dir/second.tar" "${@:2}"
if ! cmp "$made" "$dir/second.tar"; then
  echo "check-image: the image made elsewhere differs; its bill of materials shows which file does:" >&2
  for bill in "${made%.tar}"-*.cdx.json; do
    diff -U 6 "$bill" "$dir/second${bill#"${made%.tar}"}" >&2 || true
  done
  exit 1
fi
echo "made elsewhere, the image is the same to the byte"
