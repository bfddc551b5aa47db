package dataplane

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/seccomp"
)

// The next read returns the changes of Apply, and what the kernel added to them, without a
// notification.
func TestOwnChangesAreObserved(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	m.addSandbox("vethpod")
	m.must(m.nl.LinkSetMaster(m.link("vethpod"), m.link(topology.Bridge)))
	m.must(m.nl.LinkSetDown(m.link("vethpod")))
	m.Forget()
	m.observe()
	gateway := []topology.Address{{Dev: topology.Bridge, Prefix: netip.MustParsePrefix("10.128.9.1/24")}}
	connected := func() bool { return m.routes.connects(topology.Bridge, gateway[0].Prefix.Masked()) }
	bridge := func(s topology.State) topology.Device {
		for _, d := range s.Devices {
			if d.Name == topology.Bridge {
				return d
			}
		}
		return topology.Device{}
	}
	again := topology.Device{Name: topology.Bridge, MAC: "0a:58:00:00:00:09", MTU: 1400}
	for _, step := range []struct {
		what    string
		changes plan.Changes
		is      func(topology.State) bool
	}{
		{"an address", addresses(plan.Add, gateway...), func(topology.State) bool { return connected() }},
		{"no address", addresses(plan.Delete, gateway...), func(topology.State) bool { return !connected() }},
		{
			"an MTU",
			plan.Of(plan.Replace, plan.MTU{Dev: topology.Bridge, Bytes: 1300}),
			func(s topology.State) bool { return bridge(s).MTU == 1300 },
		},
		{
			"a port that is up",
			devices(topology.Device{Name: "vethpod", Up: true}),
			func(s topology.State) bool { return len(s.Devices) == 2 && s.Devices[1].Up },
		},
		{
			"a MAC address that an address is added to",
			devices(topology.Device{Name: topology.Bridge, MAC: again.MAC, Up: true}).With(addresses(plan.Add, gateway...)...),
			func(s topology.State) bool { return bridge(s).MAC == again.MAC },
		},
		{"nothing, because of the port", plan.Changes{}, func(topology.State) bool { return m.nl.LinkDel(m.link("vethpod")) == nil }},
		{"no bridge", plan.Of(plan.Delete, plan.Bridge{Device: topology.Device{Name: topology.Bridge}}), func(s topology.State) bool { return s.Bridge == "" && len(s.Devices) == 0 }},
		{
			"a bridge", plan.Of(plan.Add, plan.Bridge{Device: again}), func(s topology.State) bool {
				return s.Bridge == topology.Bridge && bridge(s).MAC == again.MAC && bridge(s).MTU == again.MTU && !bridge(s).Up
			},
		},
	} {
		m.must(m.Apply(t.Context(), step.changes))
		if s := m.observe(); !step.is(s) {
			t.Errorf("after %s: %+v", step.what, s)
		}
	}
}

// refusing refuses requests by their kinds.
func refusing(errnos map[uint16]unix.Errno) func([]uint16) unix.Errno {
	return func(sent []uint16) unix.Errno {
		for _, kind := range sent {
			if errno := errnos[kind]; errno != 0 {
				return errno
			}
		}
		return 0
	}
}

// A bridge that was made meanwhile is taken as it is. Refusals are reported with the device, except
// for one that has gone, and no request is sent for what is as desired.
func TestRefusedDevicesAreReported(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	m.addPod("vethpod", "10.128.0.2/24")
	m.addSandbox("vethout")
	m.settle(nodes(2))
	is := m.link(topology.Bridge).Attrs()
	same := topology.Device{Name: topology.Bridge, MAC: is.HardwareAddr.String(), MTU: is.MTU, LinkLocal: m.ipv6}
	set := func(d topology.Device) func() error {
		return func() error { return m.makeOwn(plan.Changes{{Op: plan.Replace, Object: plan.Device{Device: d}}}) }
	}
	add := func(d topology.Device) func() error {
		return func() error { return m.Kernel.addBridge(plan.Bridge{Device: d}) }
	}
	mtu := func(d topology.Device) func() error {
		return func() error {
			return m.makeOwn(plan.Changes{{Op: plan.Replace, Object: plan.MTU{Dev: d.Name, Bytes: d.MTU}}})
		}
	}
	change := func(errno unix.Errno) map[uint16]unix.Errno { return map[uint16]unix.Errno{unix.RTM_SETLINK: errno} }
	setUp := func(errno unix.Errno) map[uint16]unix.Errno { return map[uint16]unix.Errno{unix.RTM_NEWLINK: errno} }
	const bridge, port, out = "bridge plainroute0", "device vethpod", "device vethout"
	r := seccomp.NewRefuser(t)
	for name, c := range map[string]struct {
		do      func() error
		refused map[uint16]unix.Errno
		want    error
		key     string
	}{
		"bridge made meanwhile":    {add(same), nil, nil, ""},
		"bridge refused":           {add(same), setUp(unix.ENOMEM), unix.ENOMEM, bridge},
		"bridge not found":         {add(same), map[uint16]unix.Errno{unix.RTM_GETLINK: unix.ENOMEM}, unix.ENOMEM, bridge},
		"MTU refused":              {mtu(topology.Device{Name: topology.Bridge, MTU: 1400}), change(unix.ENOMEM), unix.ENOMEM, "device plainroute0"},
		"MTU of what has gone":     {mtu(topology.Device{Name: topology.Bridge, MTU: 1400}), change(unix.ENODEV), nil, ""},
		"MTU of what is not there": {mtu(topology.Device{Name: "nowhere", MTU: 1400}), change(unix.ENOMEM), nil, ""},
		"port up refused":          {set(topology.Device{Name: "vethpod", Up: true}), setUp(unix.ENOMEM), unix.ENOMEM, port},
		"port that has gone":       {set(topology.Device{Name: "vethpod", Up: true}), setUp(unix.ENODEV), nil, ""},
		"port that is not there":   {set(topology.Device{Name: "nowhere", Up: true}), setUp(unix.ENOMEM), nil, ""},
		"port in its bridge":       {set(topology.Device{Name: "vethpod", Master: topology.Bridge, Up: true}), change(unix.ENOMEM), nil, ""},
		"port of any bridge":       {set(topology.Device{Name: "vethout", Up: true}), change(unix.ENOMEM), nil, ""},
		"port refused by a bridge": {set(topology.Device{Name: "vethout", Master: topology.Bridge}), change(unix.ENOMEM), unix.ENOMEM, out},
		"port of no bridge":        {set(topology.Device{Name: "vethout", Master: "nowhere"}), nil, errNoDevice, out},
		"bridge with a broken MAC": {set(topology.Device{Name: topology.Bridge, MAC: "none"}), nil, errMAC, "device plainroute0"},
		"bridge with another MAC":  {set(topology.Device{Name: topology.Bridge, MAC: "0a:58:00:00:00:09"}), change(unix.ENOMEM), unix.ENOMEM, "device plainroute0"},
		"bridge with the same MAC": {set(same), change(unix.ENOMEM), nil, ""},
	} {
		m.Forget()
		m.observe()
		r.Set(refusing(c.refused))
		err := c.do()
		r.Nothing()
		if (err != nil) != (c.want != nil) || !errors.Is(c.want, errMAC) && !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
		if keys := failedKeys(err); c.want != nil && !slices.Equal(keys, []string{c.key}) {
			t.Errorf("%s: failed are %q, want %q", name, keys, c.key)
		}
	}
}

// errMAC stands for any error of net.ParseMAC.
var errMAC = errors.New("invalid MAC address")

// A port that can't reach itself by a Service is let go, so that the next pass does it again.
func TestPortWithoutHairpinModeIsReleased(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	m.addSandbox("vethpod")
	m.Forget()
	m.observe()
	r := seccomp.NewRefuser(t)
	end := r.Nth(unix.ENOMEM, 2)
	err := m.makeOwn(plan.Changes{{Op: plan.Replace, Object: plan.Device{Device: topology.Device{Name: "vethpod", Master: topology.Bridge, Up: true}}}})
	if refused := end(); !errors.Is(err, unix.ENOMEM) || !slices.Equal(refused, []uint16{unix.RTM_SETLINK}) || m.master("vethpod") != "" {
		t.Errorf("refused was %v, the error is %v, and the port is in %q", refused, err, m.master("vethpod"))
	}
	m.must(m.makeOwn(plan.Changes{{Op: plan.Replace, Object: plan.Device{Device: topology.Device{Name: "vethpod", Master: topology.Bridge, Up: true}}}}))
	m.attached("vethpod")
}

// A bridge that is made in place of one that has gone has nothing of it: neither the MAC address
// nor the link-local address. The trial of a port is made with it.
func TestBridgeIsRecreated(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	m.settle(nodes(2))
	conf := *m.Config()
	conf.MTU = 1400
	m.must(m.nl.LinkDel(m.link(topology.Bridge)))
	again := topology.Device{Name: topology.Bridge, MAC: "0a:58:01:02:03:04", MTU: 1400, Up: true, LinkLocal: m.ipv6}
	gateway := topology.Address{Dev: topology.Bridge, Prefix: netip.MustParsePrefix("10.128.0.1/24")}
	m.must(m.Apply(t.Context(), plan.Of(plan.Add, plan.Bridge{Device: again}, plan.Address{Address: gateway}, plan.Config{CNI: &conf}).With(devices(again)...)))
	bridge := m.link(topology.Bridge).Attrs()
	if bridge.HardwareAddr.String() != again.MAC || m.tried != (trial{bridge.Index, 1400}) {
		t.Errorf("it has %s, and tried is %+v", bridge.HardwareAddr, m.tried)
	}
	if m.ipv6 && m.linkLocal(topology.Bridge).String() != "fe80::858:1ff:fe02:304" { // RFC 4291, appendix A
		t.Errorf("its link-local address is %s", m.linkLocal(topology.Bridge))
	}
}

// The bridge is set up after its ports, and what was asked for stays as it was.
func TestBridgeIsSetUpLast(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	for _, name := range []string{"vetha", "vethz"} {
		m.addSandbox(name)
		m.must(m.nl.LinkSetMaster(m.link(name), m.link(topology.Bridge)))
	}
	m.Forget()
	m.observe()
	for range 50 {
		if devices := m.links.devices(topology.Bridge); len(devices) != 3 || !slices.IsSortedFunc(devices, topology.Device.Compare) {
			t.Fatalf("devices are %v", devices)
		}
	}
	r := seccomp.NewRefuser(t)
	r.Requests(unix.ENOMEM, unix.RTM_NEWLINK)
	asked := devices(topology.Device{Name: topology.Bridge}, topology.Device{Name: "vethz", Master: topology.Bridge}, topology.Device{Name: "vetha", Master: topology.Bridge})
	was := slices.Clone(asked)
	keys := failedKeys(m.Apply(t.Context(), asked))
	r.Nothing()
	if want := []string{"device vethz", "device vetha", "device plainroute0"}; !slices.Equal(keys, want) || !slices.Equal(asked, was) {
		t.Errorf("set were %q, want %q; asked for was %v", keys, want, asked)
	}
}

// The bridge is given a link-local address if one is wanted, it has a MAC address to make it of,
// and none is usable. Refusals are reported.
func TestRefusedLinkLocalAddressIsReported(t *testing.T) {
	m := newMachine(t)
	m.needIPv6()
	m.settle(nodes(2))
	m.settle(nodes(2))
	link := m.link(topology.Bridge)
	good := topology.Device{Name: topology.Bridge, MAC: link.Attrs().HardwareAddr.String(), LinkLocal: true}
	with := func(mac string) topology.Device {
		return topology.Device{Name: topology.Bridge, MAC: mac, LinkLocal: true}
	}
	r := seccomp.NewRefuser(t)
	for name, c := range map[string]struct {
		device topology.Device
		usable bool
		add    unix.Errno
		want   error
	}{
		"refused":          {good, false, unix.ENOMEM, unix.ENOMEM},
		"there, and stays": {good, false, unix.EEXIST, unix.ENOMEM},
		"usable":           {good, true, unix.ENOMEM, nil},
		"not wanted":       {topology.Device{Name: topology.Bridge, MAC: good.MAC}, false, unix.ENOMEM, nil},
		"no MAC address":   {with(""), false, unix.ENOMEM, nil},
		"a longer one":     {with("02:00:5e:10:00:00:00:01"), false, unix.ENOMEM, nil},
	} {
		m.links.local6 = c.usable
		r.Set(refusing(map[uint16]unix.Errno{unix.RTM_NEWADDR: c.add, unix.RTM_DELADDR: unix.ENOMEM}))
		err := m.addLinkLocal(link, c.device)
		if r.Nothing(); !errors.Is(err, c.want) || (err != nil) != (c.want != nil) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
	m.links.local6 = false
	r.Requests(unix.ENOMEM, unix.RTM_NEWADDR)
	if err := m.setDevice(good); !errors.Is(err, unix.ENOMEM) {
		t.Errorf("refused to a bridge that is set up: %v", err)
	}
	r.Nothing()
	m.must(m.addLinkLocal(link, good)) // again
	m.takesPackets(m.linkLocal(topology.Bridge))
}
