package inspect

import (
	"errors"
	"slices"
	"strings"
	"testing"

	rtnl "github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/seccomp"
)

// stateOfPort does what `bridge link set dev NAME state N` does.
func (m *machine) stateOfPort(name string, state PortState) {
	m.t.Helper()
	m.portOption(name, nl.IFLA_BRPORT_STATE, byte(state))
}

// portOption sets an option as bridge(8) does.
func (m *machine) portOption(name string, option int, value byte) {
	m.t.Helper()
	request := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	info := nl.NewIfInfomsg(unix.AF_BRIDGE)
	info.Index = int32(m.link(name).Attrs().Index)
	request.AddData(info)
	attr := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	attr.AddRtAttr(option, []byte{value})
	request.AddData(attr)
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	m.must(err)
}

// Ports returns the ports of one bridge that are up and have a carrier.
func TestPorts(t *testing.T) {
	m := newMachine(t)
	for _, name := range []string{"br7", "br8"} {
		m.must(m.nl.LinkAdd(&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: name}}))
		m.up(name)
	}
	for name, bridge := range map[string]string{"one": "br7", "two": "br7", "down": "br7", "cut": "br7", "other": "br8"} {
		m.addVeth(name, 1500)
		m.must(m.nl.LinkSetMaster(m.link(name), m.link(bridge)))
	}
	m.must(m.nl.LinkSetDown(m.link("down")))
	m.must(m.nl.LinkSetDown(m.link("cut-peer")))
	m.must(m.nl.LinkSetIsolated(m.link("two"), true))
	m.must(m.nl.LinkSetMTU(m.link("two"), 1400))
	m.stateOfPort("two", 0)
	m.portOption("two", portBroadcast, 0)
	m.must(m.nl.LinkSetHairpin(m.link("one"), true))
	i := m.inspector()
	ports, err := i.Ports("br7")
	m.must(err)
	slices.SortFunc(ports, func(a, b Port) int { return strings.Compare(a.Name, b.Name) })
	if want := []Port{{Name: "one", State: PortForwarding, MTU: 1500}, {Name: "two", Isolated: true, BlockedBy: "bcast_flood off", NoHairpin: true, MTU: 1400}}; !slices.Equal(ports, want) {
		t.Errorf("got %+v, want %+v", ports, want)
	}
	if ports, err := i.Ports("none"); ports != nil || err == nil || !strings.HasPrefix(err.Error(), "looking for none: ") {
		t.Errorf("of a bridge that is not there: %v, %v", ports, err)
	}
	r := seccomp.NewRefuser(t)
	r.Nth(unix.ENOMEM, 2)
	if ports, err := i.Ports("br7"); ports != nil || !errors.Is(err, unix.ENOMEM) || !strings.HasPrefix(err.Error(), "listing the ports of br7: ") {
		t.Errorf("refused: %v, %v", ports, err)
	}
}

// The states are those of linux/if_bridge.h, with the names that bridge(8) prints.
func TestPortStates(t *testing.T) {
	for state, want := range map[PortState]string{
		0: "disabled", PortListening: "listening", PortLearning: "learning", PortForwarding: "forwarding", 4: "blocking", 5: "state 5",
	} {
		if got := state.String(); got != want {
			t.Errorf("%d is %s, want %s", state, got, want)
		}
	}
}
