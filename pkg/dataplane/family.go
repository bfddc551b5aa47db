package dataplane

import (
	"errors"

	"golang.org/x/sys/unix"
)

// lacksIPv6 reports whether the kernel knows no IPv6: with ipv6.disable=1, or without it
// compiled in, it makes no socket of that family (inet6_init of net/ipv6/af_inet6.c). What
// settings switch off, disable_ipv6, is another thing: sockets, routes and settings exist then.
func lacksIPv6() bool {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return errors.Is(err, unix.EAFNOSUPPORT)
	}
	_ = unix.Close(fd) // nothing was done with it
	return false
}
