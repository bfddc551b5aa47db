package dataplane

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

// facts are those of plainroute0 (index 2) with a port, a bridge of another name with a port, and
// eth0.
func facts() *linkFacts {
	f := newLinkFacts(0)
	for index, id := range map[int]linkIdent{
		1: {name: "lo"}, 2: {name: topology.Bridge}, 3: {name: "vethpod", master: 2}, 4: {name: "docker0"}, 5: {name: "vethother", master: 4}, 6: {name: "eth0"},
	} {
		f.note(index, id, false)
	}
	f.kinds[topology.Bridge], f.kinds["docker0"] = topology.KindBridge, topology.KindBridge
	return f
}

// Names follow links that come, go, and take others' names.
func TestNamesOfLinks(t *testing.T) {
	f := facts()
	f.note(6, linkIdent{name: "wan"}, false)
	f.note(5, linkIdent{name: "vethother"}, true)
	f.note(7, linkIdent{}, false) // whose name is not known
	f.note(8, linkIdent{name: "eth0"}, false)
	for index, want := range map[int]string{5: "if5", 6: "wan", 7: "if7", 8: "eth0", 99: "if99"} {
		if got := f.name(index); got != want {
			t.Errorf("%d is %q, want %q", index, got, want)
		}
	}
	for name, want := range map[string]int{"vethother": 0, "wan": 6, "eth0": 8, "": 0} {
		if got, there := f.byName[name]; got != want || there != (want != 0) {
			t.Errorf("%q is %d, %t", name, got, there)
		}
	}
}

// A device of the bridge's name is the bridge if it is there and of that kind.
func TestBridgeIsABridge(t *testing.T) {
	f := facts()
	for name, want := range map[string]string{topology.Bridge: topology.Bridge, "docker0": "docker0", "eth0": "", "nowhere": ""} {
		if got := f.bridge(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if f.note(2, linkIdent{}, true); f.bridge(topology.Bridge) != "" {
		t.Error("a bridge that has gone is there")
	}
}

// A port is remembered from when it was in the bridge until it goes, over readings of the kernel as
// well.
func TestPortsThatWereSeen(t *testing.T) {
	f := facts()
	f.remember(nil, topology.Bridge)
	seen := func(f *linkFacts) string {
		var all []int
		for index, is := range f.seen {
			if is {
				all = append(all, index)
			}
		}
		slices.Sort(all)
		return fmt.Sprint(all)
	}
	if got := seen(f); got != "[3]" {
		t.Errorf("at first: %s", got)
	}
	later := facts()
	later.note(3, linkIdent{name: "vethpod"}, false)
	later.note(5, linkIdent{name: "vethother", master: 2}, false)
	later.remember(f, topology.Bridge)
	if got := seen(later); got != "[3 5]" {
		t.Errorf("after another reading: %s", got)
	}
	later.see(3, linkIdent{name: "vethpod"}, true, topology.Bridge)
	later.see(6, linkIdent{name: "eth0"}, false, topology.Bridge)
	if got := seen(later); got != "[5]" {
		t.Errorf("after one that went: %s", got)
	}
	gone := facts()
	gone.kinds[topology.Bridge] = topology.KindVeth
	gone.remember(nil, topology.Bridge)
	gone.note(5, linkIdent{}, true)
	gone.remember(&linkFacts{seen: map[int]bool{5: true}}, topology.Bridge)
	if got := seen(gone); got != "[]" {
		t.Errorf("without a bridge: %s", got)
	}
}

// Ports are counted, and those of pods that are out of the bridge, without that of a trial.
func TestPortsThatCount(t *testing.T) {
	f := facts()
	f.note(9, linkIdent{name: trialPort, master: 2}, false)
	for bridge, want := range map[string]int{topology.Bridge: 1, "docker0": 1, "nowhere": 0} {
		if got := f.ports(bridge); got != want {
			t.Errorf("%s has %d ports, want %d", bridge, got, want)
		}
	}
	f.pods[6] = netip.MustParseAddr("10.128.0.2")
	if got := f.ports(topology.Bridge); got != 2 {
		t.Errorf("with a pod that is out of it: %d", got)
	}
}

// The kept links are those with addresses or routes, those that receive or may receive router
// advertisements, and bridges.
func TestLinksThatAreFacts(t *testing.T) {
	addrs := []netip.Prefix{netip.MustParsePrefix("192.168.1.11/24")}
	byIndex := map[int]*topology.Link{
		1: {Name: "z-addressed", Kind: topology.KindVeth, Addrs: addrs}, 2: {Name: "advertised", Kind: topology.KindVeth, RouterAdvertised: true},
		3: {Name: "routed", Kind: topology.KindVeth}, 4: {Name: "docker0", Kind: topology.KindBridge, Enslaved: true}, 5: {Name: "uplink", Kind: "device"},
		6: {Name: "slave", Kind: "device", Enslaved: true}, 7: {Name: "guest", Kind: topology.KindVeth}, 8: {Name: "ours", Kind: topology.KindVeth},
	}
	f := newLinkFacts(0)
	f.keepRouted(byIndex, []topology.Route{{Dev: "routed"}}, "ours")
	var names []string
	for _, l := range f.list {
		names = append(names, l.Name)
	}
	if got := strings.Join(names, " "); got != "advertised docker0 ours routed uplink z-addressed" {
		t.Errorf("got %s", got)
	}
	f.idents = map[int]linkIdent{3: {name: "routed"}, 7: {name: "guest"}}
	for index, want := range map[int]bool{3: true, 7: false, 9: false} {
		if got := f.matters(index); got != want {
			t.Errorf("link %d matters: %t", index, got)
		}
	}
}

// A link has the addresses that were given to it, not those that the kernel gives to each. One of
// IPv6 that ends by itself came by router advertisement.
func TestAddressesOfALink(t *testing.T) {
	for name, c := range map[string]struct {
		addr       string
		flags      int
		want       string
		advertised bool
	}{
		"IPv4":                     {"192.168.1.11/24", unix.IFA_F_PERMANENT, "[192.168.1.11/24]", false},
		"IPv4 by DHCP":             {"192.168.1.11/24", 0, "[192.168.1.11/24]", false},
		"IPv4 link-local":          {"169.254.1.1/16", unix.IFA_F_PERMANENT, "[169.254.1.1/16]", false},
		"IPv6":                     {"fd00::1/64", unix.IFA_F_PERMANENT, "[fd00::1/64]", false},
		"IPv6 by a router":         {"fd00::1/64", 0, "[fd00::1/64]", true},
		"IPv6 by a router, in use": {"fd00::1/64", unix.IFA_F_NOPREFIXROUTE, "[fd00::1/64]", true},
		"IPv6 link-local":          {"fe80::1/64", unix.IFA_F_PERMANENT, "[]", false},
	} {
		a, err := rtnl.ParseAddr(c.addr)
		if err != nil {
			t.Fatal(err)
		}
		a.Flags = c.flags
		var link topology.Link
		addAddr(&link, *a)
		if got := fmt.Sprint(link.Addrs); got != c.want || link.RouterAdvertised != c.advertised {
			t.Errorf("%s: %s, advertised %t", name, got, link.RouterAdvertised)
		}
	}
	var link topology.Link
	addAddr(&link, rtnl.Addr{IPNet: &net.IPNet{IP: net.IP{7}}}) // as of Phonet
	if len(link.Addrs) > 0 {
		t.Errorf("of another family: %v", link.Addrs)
	}
}

// The kernel sends from an IPv6 link-local address once it has been checked for duplicates.
func TestUsableLinkLocalAddress(t *testing.T) {
	for addr, want := range map[string]bool{"fe80::1/64": true, "fd00::1/64": false, "169.254.1.1/16": false} {
		a, err := rtnl.ParseAddr(addr)
		if err != nil {
			t.Fatal(err)
		}
		if got := usableLinkLocal(*a); got != want {
			t.Errorf("%s: %t", addr, got)
		}
		if a.Flags = unix.IFA_F_TENTATIVE; usableLinkLocal(*a) {
			t.Errorf("%s is usable while it is checked", addr)
		}
	}
}

// Each kind of link is called as the kernel does, and the facts of a link are what the kernel has.
func TestFactsOfLinks(t *testing.T) {
	m := newMachine(t)
	m.must(m.nl.LinkAdd(&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: topology.Bridge, MTU: 1400}}))
	m.must(m.nl.LinkAdd(&rtnl.Tuntap{LinkAttrs: rtnl.LinkAttrs{Name: "tun7"}, Mode: rtnl.TUNTAP_MODE_TUN}))
	m.addr("tun7", "10.8.0.1/32")
	m.addVeth("veth7", 1300)
	m.addr("veth7", "192.168.7.11/24")
	m.must(m.nl.LinkSetMaster(m.link("veth7"), m.link(topology.Bridge)))
	for _, a := range m.known("fd01::1/64") {
		m.addr(topology.Bridge, a)
	}
	host, err := m.Facts(t.Context(), nil)
	m.must(err)
	got := map[string]topology.Link{}
	for _, l := range host.Links {
		got[l.Name] = l
	}
	bridge := m.link(topology.Bridge).Attrs()
	if l := got[topology.Bridge]; l.Kind != topology.KindBridge || l.MTU != 1300 || l.MAC != bridge.HardwareAddr.String() || l.Enslaved || l.Loopback {
		t.Errorf("the bridge is %+v", l)
	}
	if l := got["veth7"]; l.Kind != topology.KindVeth || l.MTU != 1300 || l.MAC != "" || !l.Enslaved || l.Loopback || fmt.Sprint(l.Addrs) != "[192.168.7.11/24]" {
		t.Errorf("the port is %+v", l)
	}
	if l := got["lo"]; !l.Loopback || l.Enslaved || l.Kind != "device" {
		t.Errorf("the loopback is %+v", l)
	}
	if kind := m.links.kinds["tun7"]; kind != "tun" {
		t.Errorf("tun7 is a %s", kind)
	}
	if l := got["tun7"]; !l.PointToPoint || !l.NoCarrier || got["veth7"].PointToPoint || got["veth7"].NoCarrier {
		t.Errorf("tun7 is %+v, the port %+v", l, got["veth7"])
	}
	if m.links.mac != bridge.HardwareAddr.String() {
		t.Errorf("the bridge's MAC address counts as %s", m.links.mac)
	}
	id := m.links.idents[m.link("veth7").Attrs().Index]
	want := linkIdent{name: "veth7", mtu: 1300, master: bridge.Index, up: true, carrier: true, mac: string(m.link("veth7").Attrs().HardwareAddr)}
	if id != want {
		t.Errorf("the port is %+v, want %+v", id, want)
	}
	if m.links.local6 {
		t.Error("a bridge that is down has a link-local address")
	}
	m.must(m.nl.LinkSetNoMaster(m.link("veth7")))
	m.Forget()
	m.observe()
	if !m.links.seen[m.link("veth7").Attrs().Index] {
		t.Error("the port was not seen")
	}
	m.must(m.nl.LinkDel(m.link(topology.Bridge)))
	m.settle(nodes(2))
	if m.links.local6 != m.ipv6 {
		t.Error("the bridge has no link-local address")
	}
}

// A file that was read is closed.
func TestNameserversLeaveNothingOpen(t *testing.T) {
	m := newMachine(t)
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // which closes unreferenced files
	m.must(os.WriteFile(m.cfg.ResolvConf, nil, 0o600))
	before := m.descriptors()
	for range 50 {
		_, err := nameservers(m.cfg.ResolvConf, true)
		m.must(err)
		m.must(m.namespace.do(func() error { return nil }))
	}
	if after := m.descriptors(); after >= before+50 {
		t.Errorf("%d descriptors became %d", before, after)
	}
}

// resolv.conf(5) has a keyword and an address a line; what is broken in it is left out.
func TestNameserversOfAFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	for content, want := range map[string]string{
		"nameserver 10.0.0.53\n":                               "[10.0.0.53]",
		"nameserver ::ffff:10.0.0.53\nnameserver fe80::1%eth0": "[10.0.0.53 fe80::1]",
		"nameserver\nnameserver x\nsearch 10.0.0.53\n#":        "[]",
		"nameserver 10.0.0.53 10.0.0.54\n":                     "[10.0.0.53]",
	} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := nameservers(file, true); err != nil || fmt.Sprint(got) != want {
			t.Errorf("%q: %v, %v, want %s", content, got, err, want)
		}
	}
	if err := os.WriteFile(file, []byte("nameserver 10.0.0.53\n#"+strings.Repeat("x", 1<<17)), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{file: "reading nameservers: bufio.Scanner: token too long", filepath.Join(file, "below"): "reading nameservers: open "} {
		if got, err := nameservers(path, false); err == nil || !strings.HasPrefix(err.Error(), want) || got != nil {
			t.Errorf("%s: %v, %v", path, got, err)
		}
	}
}
