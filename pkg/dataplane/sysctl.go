package dataplane

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// loadSysctls reads all settings that could matter on this host. Missing ones are left out: IPv6 or
// br_netfilter may be absent.
func (k *Kernel) loadSysctls() error {
	k.sysctls, k.fresh.sysctls = map[string]string{}, true
	k.readSysctls(topology.SysctlForward4, topology.SysctlForward6, topology.SysctlBridgeNF4, topology.SysctlBridgeNF6)
	for limit := 1; limit <= 3; limit++ {
		k.readSysctls(topology.NeighSysctl(4, limit), topology.NeighSysctl(6, limit))
	}
	k.readSysctls(topology.ConfSysctl(6, "all", "disable_ipv6"))
	for _, link := range k.links.list {
		k.readSysctls(
			topology.ConfSysctl(4, link.Name, "forwarding"),
			topology.ConfSysctl(6, link.Name, "forwarding"),
			topology.ConfSysctl(6, link.Name, "accept_ra"),
			topology.ConfSysctl(6, link.Name, "disable_ipv6"),
		)
	}
	// The link-local address, if it was still there when links were read, is gone by now, and the
	// one that the kernel makes when IPv6 is back is not usable at first.
	if k.sysctls[topology.ConfSysctl(6, k.cfg.Bridge, "disable_ipv6")] == "1" {
		k.links.local6 = false
	}
	return nil
}

func (k *Kernel) readSysctls(paths ...string) {
	for _, path := range paths {
		if b, err := os.ReadFile(k.sysctlFile(path)); err == nil {
			k.sysctls[path] = strings.TrimSpace(string(b))
		}
	}
}

// writeSysctl writes a setting and reads it again: a file that is mounted over it, for example by a
// sandbox, accepts any value and changes nothing.
func (k *Kernel) writeSysctl(s plan.Sysctl) error {
	f, err := os.OpenFile(k.sysctlFile(s.Path), os.O_WRONLY, 0) // below /proc/sys a missing file is a missing feature
	if err == nil {
		_, err = f.WriteString(s.Value)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("setting %s=%s: %w", s.Path, s.Value, err)
	}
	delete(k.sysctls, s.Path)
	k.readSysctls(s.Path)
	if have := k.sysctls[s.Path]; have != s.Value {
		return fmt.Errorf("setting %s=%s: it was accepted, and the value is %q still", s.Path, s.Value, have)
	}
	return nil
}

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
