package topology

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/plainroute/plainroute/pkg/problem"
)

// Paths of settings below /proc/sys. They are not dotted, because a device's name may contain dots.
const (
	SysctlForward4  = "net/ipv4/ip_forward"
	SysctlForward6  = "net/ipv6/conf/all/forwarding"
	SysctlBridgeNF4 = "net/bridge/bridge-nf-call-iptables"
	SysctlBridgeNF6 = "net/bridge/bridge-nf-call-ip6tables"
)

// ConfSysctl returns the path of a device's own setting for a family, 4 or 6.
func ConfSysctl(family int, dev, name string) string {
	return "net/ipv" + strconv.Itoa(family) + "/conf/" + dev + "/" + name
}

// NeighSysctl returns the path of one of the limits of a family's neighbor table, 1 to 3 (arp(7),
// gc_thresh).
func NeighSysctl(family, limit int) string {
	return "net/ipv" + strconv.Itoa(family) + "/neigh/default/gc_thresh" + strconv.Itoa(limit)
}

// sysctls computes the settings: forwarding, also on each device with pods' packets, because
// writing 1 over 1 into the global setting changes no device; the firewall for bridged packets,
// without which replies from a Service's pod on the same node bypass NAT; and the limits of the
// neighbor table.
func (b *builder) sysctls() {
	b.desired.Sysctls = map[string]string{}
	for _, f := range families {
		if b.serves(f.is4) {
			b.require(f.forward, f.noForward)
			b.forwardOn(f.number)
			b.looseFilters(f.is4)
			b.neighborLimits(f.number)
		}
		if hasFamily(b.subnets, f.is4) {
			b.require(f.bridgeNF, "load the module br_netfilter, or Services time out between pods of this node")
		}
	}
	if b.serves(false) {
		b.acceptRA()
	}
	// Our table drops the router advertisements between pods of this node, even if they have no
	// IPv6 addresses of ours, because they would accept them.
	if b.has(SysctlBridgeNF6) && b.has(SysctlForward6) && len(b.subnets) > 0 {
		b.desired.Sysctls[SysctlBridgeNF6] = "1"
	}
}

// has reports whether the kernel has a setting.
func (b *builder) has(path string) bool {
	_, ok := b.actual.Sysctls[path]
	return ok
}

// serves reports whether this host forwards pods' packets of a family.
func (b *builder) serves(is4 bool) bool {
	if b.opts.Router {
		return slices.ContainsFunc(b.claims, func(c *claim) bool { return c.subnet.Addr().Is4() == is4 })
	}
	return hasFamily(b.subnets, is4)
}

const (
	podsPerNode = 256 // more than the kubelet's --max-pods of 110, each a neighbor
	// defaultNeighbors fit twice into the kernel's default limits (128, 512, 1024; neigh_table of
	// net/ipv4/arp.c).
	defaultNeighbors = 512
)

// neighborLimits raises the limits of the neighbor table if neighbors and pods may fill it. In powers
// of two they seldom change, and they are never lowered.
func (b *builder) neighborLimits(family int) {
	n := b.tallies.of(family == 4).neighbors + podsPerNode
	if n <= defaultNeighbors {
		return
	}
	limit := defaultNeighbors
	for limit < n {
		limit *= 2
	}
	for which := 1; which <= 3; which, limit = which+1, limit*2 {
		path := NeighSysctl(family, which)
		have, err := strconv.Atoi(b.actual.Sysctls[path])
		switch {
		case err != nil:
			b.report(problemOf("", netip.Prefix{}, problem.SettingMissing, "/proc/sys/%s can't be seen from here, and may be too low for this many nodes; on the host it should be %d at least", path, limit))
		case have < limit:
			b.desired.Sysctls[path] = strconv.Itoa(limit)
		}
	}
}

// isNeighbor reports whether packets to a peer take an entry of the neighbor table of their own. Those
// to a gateway share one, also in a tunnel, whose own permanent entries are exempt from the limits
// (neigh_alloc of the kernel).
func (r *reach) isNeighbor() bool {
	return r.path == PathDirect || r.path == PathTunnel && r.by != nil && !r.by.Via.IsValid()
}

func (b *builder) require(path, remediation string) {
	if !b.has(path) {
		b.ownProblem(problem.SettingMissing, "/proc/sys/%s does not exist: %s", path, remediation)
		return
	}
	b.desired.Sysctls[path] = "1"
}

func (b *builder) forwardOn(family int) {
	devs := b.ownLinks()
	devs[b.opts.Bridge] = true
	for dev := range b.tallies.v4.devs {
		devs[dev] = true
	}
	for dev := range b.tallies.v6.devs {
		devs[dev] = true
	}
	for dev, wanted := range devs {
		if path := ConfSysctl(family, dev, "forwarding"); wanted && b.has(path) {
			b.desired.Sysctls[path] = "1"
		}
	}
}

// acceptRA keeps this host accepting router advertisements although it forwards. With accept_ra=1
// the kernel then ignores them and drops what it got from them, the default route too
// (ip-sysctl.rst, accept_ra). The setting doesn't wait for the first advertisement, which may come
// long after forwarding started. 0 is the operator's choice.
func (b *builder) acceptRA() {
	for _, link := range b.host.Links {
		path := ConfSysctl(6, link.Name, "accept_ra")
		if b.hasRouters(link) && (b.actual.Sysctls[path] == "1" || b.actual.Sysctls[path] == "2") {
			b.desired.Sysctls[path] = "2"
		}
	}
}

// hasRouters reports whether routers of this host may be on a link. A link to guests counts only
// after an advertisement, or if it has an InternalIP of the Node: a container must not become the
// router of its host.
func (b *builder) hasRouters(link Link) bool {
	switch {
	case link.Loopback, link.Name == b.opts.Bridge:
		return false
	case link.RouterAdvertised:
		return true
	case link.Enslaved:
		return false
	}
	return !FacesGuests(link.Kind) || slices.ContainsFunc(link.Addrs, func(p netip.Prefix) bool { return slices.Contains(b.ownAddrs, p.Addr()) })
}

// bridgeSysctls computes the bridge's settings, also before it exists. It ignores router
// advertisements, which can only come from a pod. IPv6 is enabled if pods have it.
func (b *builder) bridgeSysctls(conf *CNI) {
	comes4, comes6 := b.actual.Bridge == "", b.has(SysctlForward6) && b.getsIPv6(conf)
	set := func(family int, name, value string, wanted bool) {
		path := ConfSysctl(family, conf.Bridge, name)
		if wanted && (b.has(path) || comes6 || comes4 && family == 4) {
			b.desired.Sysctls[path] = value
		}
	}
	set(4, "forwarding", "1", b.serves(true))
	set(6, "forwarding", "1", b.serves(false))
	set(6, "accept_ra", "0", true)
	set(6, "disable_ipv6", "0", hasFamily(conf.Subnets, false))
}

// getsIPv6 reports whether the bridge will have IPv6 settings after an earlier change: it is made,
// or its MTU is raised.
func (b *builder) getsIPv6(conf *CNI) bool {
	if b.actual.Bridge == "" {
		return conf.MTU >= minMTU6
	}
	return slices.ContainsFunc(b.actual.Devices, func(d Device) bool { return d.Name == conf.Bridge && d.MTU != 0 && d.MTU < minMTU6 })
}

// switchedOff returns the settings that disable IPv6 on the uplinks, or without one on all links
// that may have routers, as paths.
func (b *builder) switchedOff() []string {
	var paths []string
	for _, link := range b.host.Links {
		matters := link.Name == b.uplinks[true].Name || len(b.uplinks) == 0 && b.hasRouters(link)
		if path := ConfSysctl(6, link.Name, "disable_ipv6"); matters && b.actual.Sysctls[path] == "1" {
			paths = append(paths, path+"=1")
		}
	}
	if all := ConfSysctl(6, "all", "disable_ipv6"); len(paths) > 0 && b.actual.Sysctls[all] == "1" {
		paths = append([]string{all + "=1"}, paths...)
	}
	return paths
}

// IsNeighSysctl reports whether the path is that of a limit of the neighbor table, without which
// pods are connected all the same.
func IsNeighSysctl(path string) bool {
	return strings.HasPrefix(path, "net/") && strings.Contains(path, "/neigh/default/gc_thresh")
}
