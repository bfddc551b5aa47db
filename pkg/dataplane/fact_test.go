package dataplane

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/seccomp"
)

// These errors of a dump mean that there is nothing to read.
func TestAbsent(t *testing.T) {
	for err, want := range map[error]bool{unix.EAFNOSUPPORT: true, unix.EOPNOTSUPP: true, unix.ENOENT: true, unix.ENOMEM: false, unix.EPERM: false, nil: false} {
		if got := absent(err); got != want {
			t.Errorf("%v: %t", err, got)
		}
	}
}

// An address connects pods by a unicast route of its device and network that goes before our
// unreachable one, and by no other.
func TestConnects(t *testing.T) {
	network := netip.MustParsePrefix("10.128.0.0/24")
	good := topology.Route{Type: topology.Unicast, Dst: network, Dev: topology.Bridge}
	for name, c := range map[string]struct {
		change func(*topology.Route)
		want   bool
	}{
		"connected":              {func(*topology.Route) {}, true},
		"just before ours":       {func(r *topology.Route) { r.Metric = topology.MetricOwn - 1 }, true},
		"with our metric":        {func(r *topology.Route) { r.Metric = topology.MetricOwn }, false},
		"of another device":      {func(r *topology.Route) { r.Dev = "eth0" }, false},
		"of another network":     {func(r *topology.Route) { r.Dst = netip.MustParsePrefix("10.128.1.0/24") }, false},
		"that leads nowhere":     {func(r *topology.Route) { r.Type = topology.Unreachable }, false},
		"of a part of the range": {func(r *topology.Route) { r.Dst = netip.MustParsePrefix("10.128.0.0/25") }, false},
	} {
		r := good
		c.change(&r)
		if got := (&routeFacts{foreign: []topology.Route{r}}).connects(topology.Bridge, network); got != c.want {
			t.Errorf("a route %s: %t", name, got)
		}
	}
}

// All settings that matter are read; one that is not there is left out.
func TestSettingsThatAreRead(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	m.cfg.ProcSys = t.TempDir()
	want := map[string]string{}
	for _, path := range []string{
		topology.SysctlForward4, topology.SysctlForward6, topology.SysctlBridgeNF4, topology.SysctlBridgeNF6,
		topology.NeighSysctl(4, 1), topology.NeighSysctl(4, 2), topology.NeighSysctl(4, 3), topology.NeighSysctl(6, 1), topology.NeighSysctl(6, 2), topology.NeighSysctl(6, 3),
		topology.ConfSysctl(6, "all", "disable_ipv6"), topology.ConfSysctl(4, "eth0", "forwarding"), topology.ConfSysctl(6, "eth0", "forwarding"),
		topology.ConfSysctl(6, "eth0", "accept_ra"), topology.ConfSysctl(6, "eth0", "disable_ipv6"),
	} {
		want[path] = path
		m.must(os.MkdirAll(filepath.Dir(m.sysctlFile(path)), 0o755))
		m.must(os.WriteFile(m.sysctlFile(path), []byte(path+"\n"), 0o644))
	}
	m.must(m.loadSysctls())
	for path := range want {
		if got := m.sysctls[path]; got != path {
			t.Errorf("%s is %q", path, got)
		}
	}
	if len(m.sysctls) != len(want) {
		t.Errorf("got %v", m.sysctls)
	}
}

// A bridge that has no IPv6 has no link-local address that is usable, even if it had one a moment
// before.
func TestLinkLocalAddressGoesWithIPv6(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	m.cfg.ProcSys = t.TempDir()
	file := m.sysctlFile(topology.ConfSysctl(6, topology.Bridge, "disable_ipv6"))
	m.must(os.MkdirAll(filepath.Dir(file), 0o755))
	for value, want := range map[string]bool{"0\n": true, "1\n": false} {
		m.must(os.WriteFile(file, []byte(value), 0o644))
		m.links.local6 = true
		if m.must(m.loadSysctls()); m.links.local6 != want {
			t.Errorf("with disable_ipv6=%q it is usable: %t", value, !want)
		}
	}
}

// The bridge's MAC address and ARP are set where they differ from what is wanted, and nothing is
// sent to the kernel otherwise. Refusals are reported.
func TestSetAddressOnlyWhereItDiffers(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	link, eth0 := m.link(topology.Bridge), m.link("eth0")
	index, has := link.Attrs().Index, link.Attrs().HardwareAddr.String()
	const other = "0a:58:00:00:00:07"
	r := seccomp.NewRefuser(t)
	defer r.Nothing()
	r.Requests(unix.ENOMEM, unix.RTM_NEWLINK, unix.RTM_SETLINK)
	for name, c := range map[string]struct {
		link        rtnl.Link
		device      topology.Device
		mac         string
		noARP, sent bool
	}{
		"same":                    {link, topology.Device{Name: topology.Bridge, MAC: has}, has, false, false},
		"none wanted":             {link, topology.Device{Name: topology.Bridge}, has, false, false},
		"none there":              {link, topology.Device{Name: topology.Bridge, MAC: other}, "", false, true},
		"a port":                  {eth0, topology.Device{Name: "eth0", MAC: other}, has, false, false},
		"another":                 {link, topology.Device{Name: topology.Bridge, MAC: other}, has, false, true},
		"without ARP":             {link, topology.Device{Name: topology.Bridge, MAC: has}, has, true, true},
		"a port without ARP":      {eth0, topology.Device{Name: "eth0"}, has, true, false},
		"a port that answers ARP": {eth0, topology.Device{Name: "eth0"}, has, false, false},
	} {
		at := c.link.Attrs().Index
		m.links.mac = c.mac
		id := m.links.idents[at]
		id.noARP = c.noARP
		m.links.idents[at] = id
		if err := m.setAddress(c.link, c.device); errors.Is(err, unix.ENOMEM) != c.sent || (err != nil) != c.sent {
			t.Errorf("%s: %v", name, err)
		}
	}
	m.links.mac = has
	if err := m.keepMAC(topology.Bridge, index); !errors.Is(err, unix.ENOMEM) {
		t.Errorf("keeping the MAC address: %v", err)
	}
}
