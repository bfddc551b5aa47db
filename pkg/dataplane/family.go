package dataplane

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

// lacksIPv6 reports whether the kernel knows no IPv6: with ipv6.disable=1, or without it
// compiled in, it makes no socket of that family (inet6_init of net/ipv6/af_inet6.c). What
// settings switch off, disable_ipv6, is another thing: sockets, routes and settings exist then.
// A sandbox may refuse the socket too, so the settings must be absent as well.
func (k *Kernel) lacksIPv6() bool {
	_, err := os.Stat(k.sysctlFile(topology.ConfSysctl(6, "all", "disable_ipv6")))
	return errors.Is(err, os.ErrNotExist) && refusesIPv6()
}

// refusesIPv6 reports whether no socket of IPv6 can be made for want of the family.
func refusesIPv6() bool {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return errors.Is(err, unix.EAFNOSUPPORT)
	}
	_ = unix.Close(fd) // nothing was done with it
	return false
}
