package dataplane

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/seccomp"
)

// Of the bridge's addresses those count whose network has a route by it, those with no network, and
// all while it is down, because the kernel takes the routes away then. Addresses of other devices
// don't count.
func TestAddressesThatCount(t *testing.T) {
	m := newMachine(t)
	m.must(m.nl.LinkAdd(&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: topology.Bridge}}))
	bridge := m.link(topology.Bridge)
	for _, a := range []string{"192.0.2.53/32", "10.128.1.1/24", "10.128.0.1/24"} {
		m.addr(topology.Bridge, a)
	}
	m.must(m.nl.AddrAdd(bridge, &rtnl.Addr{IPNet: ipNet(netip.MustParsePrefix("10.128.2.1/24")), Flags: unix.IFA_F_NOPREFIXROUTE}))
	counted := func(want ...string) {
		t.Helper()
		m.Forget()
		var got []string
		for _, a := range m.observe().Addresses {
			if a.Dev != topology.Bridge {
				t.Errorf("an address of %s counts", a.Dev)
			}
			got = append(got, a.Prefix.String())
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	counted("10.128.0.1/24", "10.128.1.1/24", "10.128.2.1/24", "192.0.2.53/32")
	m.must(m.nl.LinkSetUp(bridge))
	counted("10.128.0.1/24", "10.128.1.1/24", "192.0.2.53/32")
}

// An existing address is added again. Refusals are reported with the address, and so is a missing
// device.
func TestRefusedAddressesAreReported(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	m.settle(nodes(2)) // so that the bridge's MAC address is known
	gateway := topology.Address{Dev: topology.Bridge, Prefix: netip.MustParsePrefix("10.128.9.1/24")}
	nowhere := topology.Address{Dev: "nowhere", Prefix: gateway.Prefix}
	r := seccomp.NewRefuser(t)
	for name, c := range map[string]struct {
		addr    topology.Address
		refused map[uint16]unix.Errno
		want    error
	}{
		"again":                 {gateway, nil, nil},
		"there meanwhile":       {gateway, map[uint16]unix.Errno{unix.RTM_NEWADDR: unix.EEXIST, unix.RTM_DELADDR: 0}, nil},
		"adding refused":        {gateway, map[uint16]unix.Errno{unix.RTM_NEWADDR: unix.ENOMEM}, unix.ENOMEM},
		"deleting refused":      {gateway, map[uint16]unix.Errno{unix.RTM_NEWADDR: unix.EEXIST, unix.RTM_DELADDR: unix.ENOMEM}, unix.ENOMEM},
		"keeping a MAC refused": {gateway, map[uint16]unix.Errno{unix.RTM_SETLINK: unix.ENOMEM}, unix.ENOMEM},
		"no such device":        {nowhere, nil, errNoDevice},
	} {
		m.must(m.nl.AddrReplace(m.link(topology.Bridge), &rtnl.Addr{IPNet: ipNet(gateway.Prefix)}))
		m.Forget()
		m.observe()
		r.Set(refusing(c.refused))
		err := m.Apply(t.Context(), addresses(plan.Add, c.addr))
		r.Nothing()
		if c.want == nil && err != nil || !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
		if want := []string{"address " + c.addr.String()}; c.want != nil && !slices.Equal(failedKeys(err), want) {
			t.Errorf("%s: failed are %q, want %q", name, failedKeys(err), want)
		}
	}
}

// An address that is added again can be refused the second time.
func TestAddressThatCantBeRestoredIsReported(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	r := seccomp.NewRefuser(t)
	added := 0
	r.Set(func(sent []uint16) unix.Errno {
		if !slices.Contains(sent, unix.RTM_NEWADDR) {
			return 0
		}
		added++
		return map[int]unix.Errno{2: unix.ENOMEM}[added]
	})
	err := m.Apply(t.Context(), addresses(plan.Add, m.observe().Addresses[:1]...))
	if r.Nothing(); !errors.Is(err, unix.ENOMEM) || added != 2 {
		t.Errorf("got %v after %d requests", err, added)
	}
}

// The kernel does not check the bridge's IPv6 addresses for duplicates, which would make them
// unusable for a second or two.
func TestAddressesAreUsableAtOnce(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	addrs, err := m.nl.AddrList(m.link(topology.Bridge), rtnl.FAMILY_ALL)
	m.must(err)
	for _, a := range addrs {
		if is4 := a.IP.To4() != nil; is4 == (a.Flags&unix.IFA_F_NODAD != 0) {
			t.Errorf("%v has flags %#x", a, a.Flags)
		}
	}
}
