#!/usr/bin/env bash
# Makes the image that Kubernetes' network tests run their pods from, as an archive for `ctr images import`:
#
#   hack/conformance/image.sh OUT.tar AGNHOST NAME:TAG...
#
# It contains the program AGNHOST, and the commands of the tests: dash, busybox, curl, dig, nc, getent. Those
# come from Debian packages, which are downloaded with all they depend on and unpacked; nothing is installed. The shell
# is dash: busybox's own would run busybox's nc, which lacks flags, whatever nc there is. The image has several names:
# tests take it for agnhost, for a dig with glibc, and for programs that only run (nginx, pause).
set -euo pipefail

die() {
  printf 'conformance image: %s\n' "$*" >&2
  exit 1
}

# download gets the packages into the folder $1, with all dependencies: apt assumes that nothing is installed.
download() {
  local dir=$1
  mkdir -p "$dir/partial"
  : >"$dir/status"
  apt-get -qq -y --no-install-recommends --download-only -o Dir::State::status="$dir/status" -o Dir::Cache::archives="$dir" \
    -o Debug::NoLocking=1 -o APT::Sandbox::User=root install busybox-static dash curl bind9-dnsutils netcat-openbsd libc-bin ||
    die "downloading Debian packages failed (apt-get update gets the lists that are needed)"
}

# unpack makes the image's file system in the folder $2, of the packages in the folder $1 and of agnhost, $3.
unpack() {
  local debs=$1 fs=$2 agnhost=$3 deb applet kubernetes
  mkdir -p "$fs"/{bin,usr/bin,etc,tmp,uploads}
  chmod 1777 "$fs/tmp"
  for deb in "$debs"/*.deb; do
    dpkg-deb -x "$deb" "$fs"
  done
  rm -rf "${fs:?}"/{usr/share,usr/sbin,var,sbin}
  ln -s nc.openbsd "$fs/bin/nc"
  for applet in $("$fs/bin/busybox" --list); do
    if [[ ! -e $fs/usr/bin/$applet && ! -e $fs/bin/$applet ]]; then
      ln -s busybox "$fs/bin/$applet"
    fi
  done
  echo 'hosts: files dns' >"$fs/etc/nsswitch.conf"
  echo 'root:x:0:0:root:/:/bin/sh' >"$fs/etc/passwd"
  install -m 755 "$agnhost" "$fs/agnhost"
  # The certificate of one of its servers, which looks for it there.
  kubernetes=$(go list -C "$(dirname "${BASH_SOURCE[0]}")" -m -f '{{.Dir}}' k8s.io/kubernetes)
  install -m 644 "$kubernetes"/test/images/agnhost/porter/localhost.{crt,key} "$fs"
}

# pack writes the archive $1 of the file system $2 with the names $3: one layer, its config, and a manifest.
pack() {
  local out=$1 fs=$2 dir names
  shift 2
  dir=$(mktemp -d "$(dirname "$out")/.image-XXXXXX")
  scratch+=("$dir")
  tar -C "$fs" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -cf "$dir/layer.tar" .
  printf '{"architecture":"%s","os":"linux","config":{"Env":["PATH=/usr/local/bin:/usr/bin:/bin"],"Entrypoint":["/agnhost"],"Cmd":["pause"],"WorkingDir":"/"},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$(go env GOARCH)" "$(sha256sum "$dir/layer.tar" | cut -d' ' -f1)" >"$dir/config.json"
  names=$(printf ',"%s"' "$@")
  printf '[{"Config":"config.json","RepoTags":[%s],"Layers":["layer.tar"]}]' "${names#,}" >"$dir/manifest.json"
  tar -C "$dir" -cf "$dir/image" manifest.json config.json layer.tar
  mv -fT "$dir/image" "$out"
}

(($# >= 3)) || die "usage: image.sh OUT.tar AGNHOST NAME:TAG..."
out=$1 agnhost=$2
shift 2
for tool in apt-get dpkg-deb; do
  command -v "$tool" >/dev/null || die "there is no $tool here: it takes Debian, or a system that is like it"
done
scratch=()
trap 'rm -rf "${scratch[@]}"' EXIT
mkdir -p "$(dirname "$out")"
work=$(mktemp -d)
scratch+=("$work")
download "$work/debs"
unpack "$work/debs" "$work/fs" "$agnhost"
pack "$out" "$work/fs" "$@"
