#!/usr/bin/env bash
# Makes the image of plainroute, without Docker and without a registry: the static agent and the stock CNI plugins, FROM
# scratch, for each platform.
#
#   hack/make-image.sh OUT.tar NAME:TAG VERSION [PLATFORM,...]
#
# The same commit, version of Go and VERSION give the same bytes on every machine.
# Needs bin/tools/image (hack/binaries.sh image).
set -euo pipefail

if (($# < 3)); then
  echo "usage: hack/make-image.sh OUT.tar NAME:TAG VERSION [PLATFORM,...]" >&2
  exit 2
fi
out=$(realpath -m "$1") tag=$2 version=$3
IFS=, read -ra platforms <<<"${4:-linux/amd64,linux/arm64}"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

plugins=github.com/containernetworking/plugins
plugins_version=$(awk -v of="$plugins" '$1 == of { print $2; exit }' hack/cni/go.mod)
source=https://$(go list -m)

# The time in the image is the commit's, so that it does not depend on when it is made.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH CGO_ENABLED=0 GOWORK=off
revision=${REVISION:-$(git rev-parse HEAD 2>/dev/null || echo unknown)}

# The binaries go to a folder of this run, so two runs do not disturb each other.
mkdir -p "${out%/*}"
dir=$(mktemp -d "${out%/*}/.make-image.XXXXXX")
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM HUP

for platform in "${platforms[@]}"; do
  export GOOS=${platform%/*} GOARCH=${platform#*/}
  to=$dir/$GOOS-$GOARCH
  mkdir -p "$to/cni"
  echo "compiling for $platform"
  go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$version -X main.revision=$revision" -o "$to/plainroute" ./cmd/plainroute
  go list -C hack/cni tool | xargs go build -C hack/cni -mod=readonly -trimpath -buildvcs=false \
    -ldflags "-s -w -X $plugins/pkg/utils/buildversion.BuildVersion=$plugins_version" -o "$to/cni/"
done
unset GOOS GOARCH

# The plugins are a layer of their own: they seldom change, and nodes that have that layer need not pull it again.
files=(LICENSE:/LICENSE)
for plugin in "$to"/cni/*; do
  files+=("$dir/{os}-{arch}/cni/${plugin##*/}:/cni/${plugin##*/}")
done
bin/tools/image -o "$out" -tag "$tag" -platform "$(IFS=, && echo "${platforms[*]}")" -entrypoint /plainroute -sbom /sbom.json -licenses /licences.txt \
  -label org.opencontainers.image.title=plainroute \
  -label org.opencontainers.image.description="A pod network for Kubernetes made of plain kernel routes" \
  -label org.opencontainers.image.version="$version" \
  -label org.opencontainers.image.revision="$revision" \
  -label org.opencontainers.image.created="$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)" \
  -label org.opencontainers.image.source="$source" \
  -label org.opencontainers.image.licenses=Apache-2.0 \
  "${files[@]}" + "$dir/{os}-{arch}/plainroute:/plainroute"
