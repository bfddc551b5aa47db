#!/usr/bin/env bash
# Runs the tests of packages on Debian's kernels, each on a machine that QEMU emulates, without KVM and without root:
#
#   hack/kernels.sh PACKAGE... [-- -test.run=NAME...]
#
# KERNELS names the releases of Debian whose kernels these are. QEMU, busybox and the kernels come from Debian's packages, which
# are unpacked below bin/kernels and installed nowhere. Tests see $PLAINROUTE_BIN and $CNI_BIN of this machine.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
to=$root/bin/kernels
read -ra releases <<<"${KERNELS:-bullseye bookworm trixie}"

say() { printf 'kernels: %s\n' "$*"; }
die() {
  say "$*" >&2
  exit 1
}

# apt runs a command of apt with lists of packages of its own, those of the release $1.
apt() {
  local dir=$to/apt/$1 command=$2
  shift 2
  "apt-$command" -qq -o Dir::State="$dir" -o Dir::Cache="$dir" -o Dir::Etc::sourcelist="$dir/sources.list" -o Dir::Etc::sourceparts=- \
    -o Dir::State::status="$dir/status" -o Acquire::Languages=none -o APT::Sandbox::User=root "$@"
}

# lists gets the lists of packages of the release $1 from the mirror that this machine uses.
lists() {
  local dir=$to/apt/$1 mirror
  # shellcheck disable=SC2016 # apt-get expands it
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Component: main' | head -n 1)
  mkdir -p "$dir"/{lists/partial,archives/partial}
  : >"$dir/status"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $1 main" >"$dir/sources.list"
  apt "$1" get update
}

# emulator unpacks QEMU for this machine's release, with the libraries that this machine lacks, and busybox.
emulator() {
  [[ -x $to/qemu/usr/bin/qemu-system-x86_64 ]] && return
  local tmp=$to/qemu.tmp packages
  say "getting QEMU"
  rm -rf "$tmp" && mkdir -p "$tmp/packages"
  apt-get -qq update || true
  packages=$(apt-get -qq --no-install-recommends --print-uris install qemu-system-x86 | awk '{ sub(/_.*/, "", $2); print $2 }')
  # shellcheck disable=SC2086 # several names
  (cd "$tmp/packages" && apt-get -qq -o APT::Sandbox::User=root download busybox-static $packages) || die "apt-get can't download QEMU"
  for package in "$tmp"/packages/*.deb; do
    dpkg -x "$package" "$tmp"
  done
  rm -rf "$tmp/packages" "$to/qemu"
  mv -T "$tmp" "$to/qemu"
}

# kernel unpacks the newest kernel of the release $1: its image, and an archive of the modules of network devices.
kernel() {
  local dir=$to/$1 tmp=$to/$1.tmp package version modules
  [[ -f $dir/modules.cpio ]] && return
  say "getting the kernel of $1"
  lists "$1"
  package=$(apt "$1" cache depends linux-image-cloud-amd64 | awk '$1 == "Depends:" { print $2 }')
  rm -rf "$tmp" "$dir" && mkdir -p "$tmp/deb" "$tmp/root"
  (cd "$tmp" && apt "$1" get download "$package") || die "apt-get can't download $package"
  dpkg -x "$tmp"/*.deb "$tmp/deb"
  mv "$tmp"/deb/boot/vmlinuz-* "$tmp/vmlinuz"
  modules=$(dirname "$(find "$tmp/deb" -name modules.order)")
  version=${modules##*/}
  mkdir -p "$tmp/root/lib/modules/$version/kernel/drivers"
  cp -r "$modules"/kernel/{net,crypto,lib,arch} "$tmp/root/lib/modules/$version/kernel"
  cp -r "$modules/kernel/drivers/net" "$tmp/root/lib/modules/$version/kernel/drivers"
  cp "$modules"/modules.{builtin,order} "$tmp/root/lib/modules/$version"
  find "$tmp/root" -name '*.ko.xz' -exec unxz {} +
  "$busybox" depmod -b "$tmp/root" "$version"
  archive "$tmp/root" >"$tmp/modules.cpio"
  rm -rf "$tmp"/{deb,root,*.deb}
  mv -T "$tmp" "$dir"
}

# archive writes the folder $1 as the kernel reads it.
archive() { (cd "$1" && find . | "$busybox" cpio -o -H newc 2>/dev/null); }

# tests compiles those of the packages, and makes an archive of them and of all that they need.
tests() {
  local dir=$to/root name package
  rm -rf "$dir" && mkdir -p "$dir"/{bin,cni,dev,proc,sys,tmp,run,etc,root,test}
  cp "$busybox" "$dir/bin/busybox"
  for name in $("$busybox" --list); do
    [[ $name == busybox ]] || ln -s busybox "$dir/bin/$name"
  done
  ln -s bin "$dir/sbin"
  cp "$root/hack/kernels/init.sh" "$dir/init"
  cp "$CNI_BIN"/* "$dir/cni"
  cp "$PLAINROUTE_BIN" "$dir/plainroute"
  for package in "${packages[@]}"; do
    name=$(tr -c 'a-z\n' _ <<<"${package#./}")
    (cd "$root" && CGO_ENABLED=0 go test -c -trimpath -ldflags='-s -w' -o "$dir/test/$name.test" "$package")
    mkdir -p "$dir/test/$name"
    [[ ! -d $root/$package/testdata ]] || cp -r "$root/$package/testdata" "$dir/test/$name"
  done
  echo "$*" >"$dir/test/arguments"
  archive "$dir" >"$to/tests.cpio"
}

# clock has the kernel take time and timers from the HPET alone. It would measure the others at boot, which goes wrong where this
# machine is busy: then its clock is too fast, timers come minutes late, or it panics.
clock="clocksource=hpet no_timer_check nolapic_timer"

# run runs the tests on the kernel of the release $1, and prints a line for each.
run() {
  local dir=$to/$1 log=$to/$1.log libraries=$to/qemu/usr/lib/x86_64-linux-gnu:$to/qemu/lib/x86_64-linux-gnu
  cat "$dir/modules.cpio" "$to/tests.cpio" >"$dir/initrd"
  LD_LIBRARY_PATH=$libraries timeout 2h "$to/qemu/usr/bin/qemu-system-x86_64" -L "$to/qemu/usr/share/qemu" -L "$to/qemu/usr/share/seabios" \
    -M pc -accel tcg,thread=multi -cpu max,la57=off -smp 2 -m 2G -nodefaults -display none -serial stdio -no-reboot \
    -kernel "$dir/vmlinuz" -initrd "$dir/initrd" </dev/null \
    -append "console=ttyS0 rdinit=/init panic=-1 quiet mitigations=off random.trust_cpu=on $clock" |
    sed -u 's|\r$||' | tee "$log" | grep --line-buffered -E '^kernels: Linux|^ *--- ' || true
  say "$1: $(grep -c -- '--- PASS' "$log") passed, $(grep -c -- '--- FAIL' "$log") failed, $(grep -c -- '--- SKIP' "$log") skipped; all of the output: $log"
  grep -q '^kernels: exit code 0$' "$log"
}

packages=()
while (($#)) && [[ $1 != -- ]]; do
  packages+=("$1")
  shift
done
shift $(($# > 0))
((${#packages[@]})) || die "which packages?"
[[ $(uname -m) == x86_64 && -n $(command -v apt-get) && -n $(command -v dpkg) ]] || die "this takes Debian's packages, on amd64"
busybox=$to/qemu/bin/busybox
mkdir -p "$to"
emulator
for release in "${releases[@]}"; do
  kernel "$release"
done
tests "$@"
code=0
for release in "${releases[@]}"; do
  run "$release" || code=1
done
exit "$code"
