#!/bin/sh
# The first process of an emulated machine: it mounts what tests need, runs the test binaries in /test, and switches the machine
# off. hack/kernels.sh reads what it prints.
export PATH=/bin CNI_BIN=/cni PLAINROUTE_BIN=/plainroute HOME=/root EMULATED=1 RAPID_CHECKS=4
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mount -t cgroup2 cgroup /sys/fs/cgroup
for module in br_netfilter tun; do
  modprobe $module
done
ip link set lo up
echo "kernels: Linux $(uname -r)"
code=0
for binary in /test/*.test; do
  cd "${binary%.test}" || exit
  echo "kernels: tests of $(basename "${binary%.test}")"
  # shellcheck disable=SC2046 # the arguments are words
  "$binary" -test.v -test.timeout=60m $(cat /test/arguments) || code=1
done
echo "kernels: exit code $code"
poweroff -f
