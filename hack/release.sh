#!/usr/bin/env bash
# Makes what a release consists of, below the folder OUT: the image as an OCI archive with its bills of materials, the chart,
# the manifests of config/default, the kubectl plugin for four platforms, krew's manifest, and SHA256SUMS. The same commit,
# version of Go and VERSION give the same files.
#
#   hack/release.sh OUT IMAGE:TAG VERSION
#
# Needs bin/tools/image, bin/tools/helm, bin/tools/kustomize and bin/tools/validate-krew-manifest (hack/binaries.sh).
set -euo pipefail

if (($# != 3)); then
  echo "usage: hack/release.sh OUT IMAGE:TAG VERSION" >&2
  exit 2
fi
out=$(realpath -m "$1") image=$2 version=$3
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD

SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH CGO_ENABLED=0 GOWORK=off
revision=$(git rev-parse HEAD)

# A release appears as a whole, or not at all.
made=$out.making
rm -rf "$made"
mkdir -p "$made"
trap 'rm -rf "$made"' EXIT
trap 'exit 130' INT TERM HUP

hack/make-image.sh "$made/plainroute-image.tar" "$image" "$version"

# archive packs the files of folder $2 into $1, the same for each run.
archive() {
  (cd "$2" && tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -cf - -- *) | gzip -n >"$1"
}

cp hack/krew/plainroute.yaml "$made/plainroute.yaml"
sed -i "/^#/d; s/VERSION/$version/" "$made/plainroute.yaml"
for platform in linux-amd64 linux-arm64 darwin-amd64 darwin-arm64; do
  echo "compiling the kubectl plugin for $platform"
  plugin=$made/kubectl-plainroute-$platform
  mkdir "$plugin"
  GOOS=${platform%-*} GOARCH=${platform#*-} go build -trimpath -buildvcs=false \
    -ldflags "-s -w -X main.version=$version -X main.revision=$revision" -o "$plugin/kubectl-plainroute" ./cmd/plainroute
  cp LICENSE "$plugin/"
  archive "$plugin.tar.gz" "$plugin"
  rm -r "$plugin"
  sed -i "s/SHA256-$platform/$(sha256sum <"$plugin.tar.gz" | cut -d' ' -f1)/" "$made/plainroute.yaml"
done
bin/tools/validate-krew-manifest -manifest "$made/plainroute.yaml" -skip-install 2>&1 | grep -v '^I' || [[ ${PIPESTATUS[0]} == 0 ]]

# The chart's version is that of Chart.yaml, which a release must have raised. Helm writes the time into its archive, so
# tar makes it.
chart=$(awk '$1 == "version:" { print $2 }' charts/plainroute/Chart.yaml)
bin/tools/helm lint --quiet --set "clusterCIDR={10.244.0.0/16}" charts/plainroute
mkdir "$made/chart"
cp -r charts/plainroute "$made/chart/"
sed -i "s|localhost/plainroute|${image%:*}|" "$made/chart/plainroute/values.yaml"
archive "$made/plainroute-$chart.tgz" "$made/chart"
rm -r "$made/chart"
bin/tools/kustomize build config/default | sed "s|localhost/plainroute:[^ ]*|$image|" >"$made/plainroute-default.yaml"

cd "$made"
sha256sum -- * >SHA256SUMS
cd "$root"
rm -rf "$out"
mv -T "$made" "$out"
ls -l "$out"
