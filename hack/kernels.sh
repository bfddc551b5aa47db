#!/usr/bin/env bash
# Runs the tests of packages on Debian's kernels, each on a machine that QEMU emulates, without KVM and without root:
#
#   hack/kernels.sh PACKAGE... [-- -test.run=NAME...]
#   hack/kernels.sh all        all that docs/kernels.md has, and its table, bin/kernels/table.md
#   hack/kernels.sh short      some tests on one kernel, for CI: it succeeds where this machine can't run them
#
# KERNELS names the releases of Debian whose kernels these are, or RELEASE+PARAMETER for a kernel that is booted with a parameter.
# QEMU, busybox and the kernels come from Debian's packages, which are unpacked below bin/kernels and installed nowhere. Tests see
# $PLAINROUTE_BIN and $CNI_BIN of this machine.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
to=$root/bin/kernels
kernels=${KERNELS:-bullseye bookworm trixie sid}

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
  local dir=$to/$1 tmp=$to/$1.tmp package packages version modules
  [[ -f $dir/modules.cpio ]] && return
  say "getting the kernel of $1"
  lists "$1"
  package=$(apt "$1" cache depends linux-image-cloud-amd64 | awk '$1 == "Depends:" && $2 ~ /^linux-image/ { print $2 }')
  # Later releases have the image and the modules in packages of their own.
  packages=$(apt "$1" cache depends "$package" | awk '$1 == "Depends:" && $2 ~ /^linux-(binary|modules)/ { print $2 }')
  rm -rf "$tmp" "$dir" && mkdir -p "$tmp/deb" "$tmp/root"
  # shellcheck disable=SC2086 # several names
  (cd "$tmp" && apt "$1" get download ${packages:-$package}) || die "apt-get can't download ${packages:-$package}"
  for package in "$tmp"/*.deb; do
    dpkg -x "$package" "$tmp/deb"
  done
  mv "$(find "$tmp/deb" -name 'vmlinuz*' | head -n 1)" "$tmp/vmlinuz"
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
    (cd "$root" && CGO_ENABLED=0 go test -c -trimpath -ldflags='-s -w' -o "$dir/test/$name.test" "$package") || die "compiling the tests of $package failed"
    mkdir -p "$dir/test/$name"
    [[ ! -d $root/$package/testdata ]] || cp -r "$root/$package/testdata" "$dir/test/$name"
  done
  echo "$*" >"$dir/test/arguments"
  archive "$dir" >"$to/tests.cpio"
}

# clock has the kernel take time and timers from the HPET alone. It would measure the others at boot, which goes wrong where this
# machine is busy: then its clock is too fast, timers come minutes late, or it panics.
clock="clocksource=hpet no_timer_check nolapic_timer"

# run runs the tests on the kernel $1, and prints a line for each.
run() {
  local dir=$to/${1%%+*} parameter="" log=$to/$1.log libraries=$to/qemu/usr/lib/x86_64-linux-gnu:$to/qemu/lib/x86_64-linux-gnu
  [[ $1 != *+* ]] || parameter=${1#*+}
  cat "$dir/modules.cpio" "$to/tests.cpio" >"$dir/initrd"
  LD_LIBRARY_PATH=$libraries timeout 2h "$to/qemu/usr/bin/qemu-system-x86_64" -L "$to/qemu/usr/share/qemu" -L "$to/qemu/usr/share/seabios" \
    -M pc -accel tcg,thread=multi -cpu max,la57=off -smp 2 -m 2G -nodefaults -display none -serial stdio -no-reboot \
    -kernel "$dir/vmlinuz" -initrd "$dir/initrd" </dev/null \
    -append "console=ttyS0 rdinit=/init panic=-1 quiet mitigations=off random.trust_cpu=on $clock $parameter" |
    sed -u 's|\r$||' | tee "$log" | grep --line-buffered -E '^kernels: Linux|^ *--- ' || true
  say "$1: $(grep -c -- '--- PASS' "$log") passed, $(grep -c -- '--- FAIL' "$log") failed, $(grep -c -- '--- SKIP' "$log") skipped; all of the output: $log"
  grep -q '^kernels: exit code 0$' "$log"
}

# suite runs the tests of packages, with arguments after --, on the kernels that the variable kernels names.
suite() {
  local packages=() kernel code=0
  while (($#)) && [[ $1 != -- ]]; do
    packages+=("$1")
    shift
  done
  shift $(($# > 0))
  for kernel in $kernels; do
    kernel "${kernel%%+*}"
  done
  tests "$@"
  for kernel in $kernels; do
    run "$kernel" || code=1
  done
  return "$code"
}

# Kernels that lack what the agent needs: IPv6; and nftables, tunnels and what has bridges call netfilter.
noipv6=bookworm+ipv6.disable=1
lacking="bookworm+module_blacklist=nf_tables bookworm+module_blacklist=vxlan bookworm+module_blacklist=br_netfilter"

# all runs what docs/kernels.md has.
all() {
  local code=0
  suite ./test/links ./pkg/dataplane ./pkg/doctor || code=1
  kernels=$noipv6 suite ./pkg/dataplane ./pkg/doctor || code=1
  kernels=$lacking suite ./test/links -- -test.run=TestKernelWithout || code=1
  # shellcheck disable=SC2086 # several names
  table $kernels "$noipv6" $lacking >"$to/table.md"
  return "$code"
}

# table prints what the last runs on kernels found, a row for each test of test/links and for each other package.
table() {
  local logs=() kernel
  for kernel in "$@"; do
    logs+=("$to/$kernel.log")
  done
  awk -f "$root/hack/kernels/table.awk" "${logs[@]}"
}

# short is for CI, where it is no fault of a change if no kernel can be downloaded.
short() {
  local log=$to/short.log
  if ! (emulator && kernel bookworm) >"$log" 2>&1; then
    say "SKIPPED: $(tail -n 1 "$log")"
    return
  fi
  kernels=bookworm suite ./test/links
}

(($#)) || die "which packages?"
mkdir -p "$to"
busybox=$to/qemu/bin/busybox
if ! [[ $(uname -m) == x86_64 && -n $(command -v apt-get) && -n $(command -v dpkg) ]]; then
  [[ $1 == short ]] || die "this takes Debian's packages, on amd64"
  say "SKIPPED: this takes Debian's packages, on amd64"
  exit
fi
if [[ $1 == short ]]; then
  short
  exit
fi
emulator
if [[ $1 == all ]]; then
  all
else
  suite "$@"
fi
