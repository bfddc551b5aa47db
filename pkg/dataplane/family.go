package dataplane

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

// lacksIPv6 reports whether the kernel has no IPv6: with ipv6.disable=1, or without it compiled in,
// no socket of that family can be opened (inet6_init of net/ipv6/af_inet6.c). With disable_ipv6,
// sockets, routes and settings exist. A sandbox may refuse the socket too, so the settings must be
// absent as well.
func (k *Kernel) lacksIPv6() bool {
	_, err := os.Stat(k.sysctlFile(topology.ConfSysctl(6, "all", "disable_ipv6")))
	return errors.Is(err, os.ErrNotExist) && refusesIPv6()
}

// refusesIPv6 reports whether a socket of IPv6 is refused because the family is missing.
func refusesIPv6() bool {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return errors.Is(err, unix.EAFNOSUPPORT)
	}
	_ = unix.Close(fd) // nothing was done with it
	return false
}
