package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// addStranger makes a container of another network that has taken a name and addresses.
func (m *machine) addStranger(port, device string, addrs ...string) {
	m.t.Helper()
	s := m.addSandbox(port, addrs...)
	l, err := s.nl.LinkByName(port + "-eth0")
	m.must(err)
	m.must(s.nl.LinkSetDown(l))
	m.must(s.nl.LinkSetName(l, device))
	m.must(s.nl.LinkSetUp(l))
}

// problems returns those of the bridge and its ports.
func (m *machine) problems(all []*topology.Node) []problem.Problem {
	m.t.Helper()
	host, err := m.Facts(context.Background(), topology.Concerns(options(m), all))
	m.must(err)
	_, problems := topology.Desired(options(m), host, m.stated(all), m.observed())
	return slices.DeleteFunc(problems, func(p problem.Problem) bool { return p.Reason != problem.BridgeFailed })
}

// restart forgets what a new process would not know.
func (m *machine) restart() {
	m.Forget()
	m.links = nil
}

// A container of another network with CAP_NET_ADMIN can give itself a pod's address. That neither
// puts it into the pods' bridge nor makes the node not ready.
func TestAnotherContainerWithAPodsAddress(t *testing.T) {
	const pods = "10.128.0.2/24"
	for name, c := range map[string]struct {
		arrange func(*machine)
		report  string
	}{
		"of a pod that is attached": {arrange: func(m *machine) { m.addStranger("vethother", "vethpod-eth0", pods) }},
		"of a pod that is attached, in another bridge": {arrange: func(m *machine) {
			m.addStranger("vethother", "vethpod-eth0", pods)
			m.into("vethother", "docker0")
		}},
		"of a pod that is gone, beside its own": {arrange: func(m *machine) {
			m.leaseTo("10.128.0.9", "gone", "eth0")
			m.addStranger("vethother", "eth0", "10.128.0.9/32", "172.17.0.2/16")
		}},
		"of a pod that is gone, on a device of another name": {arrange: func(m *machine) {
			m.leaseTo("10.128.0.9", "gone", "eth0")
			m.addStranger("vethother", "eth1", "10.128.0.9/32")
		}},
		"of two pods": {arrange: func(m *machine) {
			m.leaseTo("10.128.0.8", "gone", "eth0")
			m.leaseTo("10.128.0.9", "gone too", "eth0")
			m.addStranger("vethother", "eth0", "10.128.0.8/32", "10.128.0.9/32")
		}},
		"of a pod that is gone, in another bridge": {arrange: func(m *machine) {
			m.leaseTo("10.128.0.9", "gone", "eth0")
			m.addStranger("vethother", "eth0", "10.128.0.9/32")
			m.into("vethother", "docker0")
		}, report: "check which container it is"},
		"of a pod whose port is out": {arrange: func(m *machine) {
			m.addStranger("vethother", "vethpod-eth0", pods)
			m.settle(nodes(2)) // which sees the pod's port in the bridge
			m.must(m.nl.LinkSetNoMaster(m.link("vethpod")))
		}},
		"of a pod whose port is down, after a restart": {arrange: func(m *machine) {
			m.addStranger("vethother", "vethpod-eth0", pods)
			m.must(m.nl.LinkSetDown(m.link("vethpod")))
			m.restart()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.settle(nodes(2))
			m.addPod("vethpod", pods)
			c.arrange(m)
			before := m.master("vethother")
			m.settle(nodes(2)) // fails where this node is not ready
			m.attached("vethpod")
			if got := m.master("vethother"); got != before {
				t.Errorf("the other container was in %q, and is in %q", before, got)
			}
			problems := m.problems(nodes(2))
			if c.report == "" && len(problems) > 0 || c.report != "" && (len(problems) != 1 || !strings.Contains(problems[0].Message, c.report)) {
				t.Errorf("problems: %v", problems)
			}
		})
	}
}

func (m *machine) into(port, bridge string) {
	m.t.Helper()
	m.must(m.nl.LinkAdd(&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: bridge}}))
	m.must(m.nl.LinkSetMaster(m.link(port), m.link(bridge)))
}

// If two ports can't be distinguished, neither is changed.
func TestTwoClaimAPodsAddressAfterARestart(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	m.addPod("vethpod", "10.128.0.2/24", "fd01::2/64")
	m.addStranger("vethother", "vethpod-eth0", "10.128.0.2/24")
	m.must(m.nl.LinkSetNoMaster(m.link("vethpod")))
	m.restart()
	m.settle(nodes(2))
	if pod, other := m.master("vethpod"), m.master("vethother"); pod != "" || other != "" {
		t.Errorf("the pod is in %q, and the other container in %q", pod, other)
	}
	problems := m.problems(nodes(2))
	if len(problems) != 2 || problems[0].BlocksReady {
		t.Errorf("problems: %v", problems)
	}
	m.must(m.nl.LinkDel(m.link("vethother")))
	m.settle(nodes(2))
	m.attached("vethpod")
}

// A port is remembered until it is deleted, and notifications between two reads update that.
func TestPortsThatWereSeenAreForgottenWithThem(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	news := m.watchSettled(nodes(2))
	m.addPod("vethpod", "10.128.0.2/24")
	m.quiet(news, "a pod that comes")
	index := m.link("vethpod").Attrs().Index
	seen := func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.links.seen[index]
	}
	if !seen() {
		t.Error("a port that came is not remembered")
	}
	m.must(os.Remove(filepath.Join(m.dir, "run", topology.IPAMDir, topology.Network, "10.128.0.2")))
	m.must(m.nl.LinkDel(m.link("vethpod")))
	m.quiet(news, "a pod that goes")
	if seen() {
		t.Error("a port that went is remembered")
	}
}

// Of claims to one address that of a port which was seen in the bridge holds. If that decides
// nothing, they conflict.
func TestClaims(t *testing.T) {
	a, b := netip.MustParseAddr("10.128.0.2"), netip.MustParseAddr("10.128.0.3")
	for name, c := range map[string]struct {
		claims          []claim
		seen            []int
		pods, conflicts string
	}{
		"none":                          {nil, nil, "map[]", "map[]"},
		"to two addresses":              {[]claim{{1, []netip.Addr{a}}, {2, []netip.Addr{b}}}, nil, "map[1:10.128.0.2 2:10.128.0.3]", "map[]"},
		"of one that was seen":          {[]claim{{1, []netip.Addr{a, b}}, {2, []netip.Addr{b}}}, []int{2}, "map[2:10.128.0.3]", "map[]"},
		"of none that was seen":         {[]claim{{1, []netip.Addr{a, b}}, {2, []netip.Addr{b}}}, nil, "map[1:10.128.0.2 2:10.128.0.3]", "map[1:2 2:1]"},
		"of two that were seen":         {[]claim{{1, []netip.Addr{a}}, {2, []netip.Addr{a}}}, []int{1, 2}, "map[1:10.128.0.2 2:10.128.0.2]", "map[1:2 2:1]"},
		"one lost, one has no conflict": {[]claim{{1, []netip.Addr{a}}, {2, []netip.Addr{a}}, {3, []netip.Addr{b}}}, []int{1}, "map[1:10.128.0.2 3:10.128.0.3]", "map[]"},
		"lost among rivals":             {[]claim{{1, []netip.Addr{a}}, {2, []netip.Addr{a}}, {3, []netip.Addr{a}}}, []int{1}, "map[1:10.128.0.2]", "map[]"},
	} {
		f := newLinkFacts(0)
		for _, index := range c.seen {
			f.seen[index] = true
		}
		f.settle(c.claims)
		if pods, conflicts := fmt.Sprint(f.pods), fmt.Sprint(f.conflicts); pods != c.pods || conflicts != c.conflicts {
			t.Errorf("%s: pods %s, rivals %s, want %s, %s", name, pods, conflicts, c.pods, c.conflicts)
		}
	}
}

// A pod's port is looked for among veths that are down or not in the bridge, and among no other
// devices.
func TestPortsThatMayBeAPods(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	for name, addr := range map[string]string{"vethpod": "10.128.0.2/24", "vethdown": "10.128.0.3/24", "vethout": "10.128.0.4/24"} {
		m.addPod(name, addr)
	}
	m.must(m.nl.LinkSetDown(m.link("vethdown")))
	m.must(m.nl.LinkSetNoMaster(m.link("vethout")))
	other := m.newSandbox()
	m.must(other.nl.LinkAdd(&rtnl.Veth{LinkAttrs: rtnl.LinkAttrs{Name: "net0"}, PeerName: "net0-peer"}))
	net0, err := other.nl.LinkByName("net0")
	m.must(err)
	m.must(other.nl.AddrAdd(net0, &rtnl.Addr{IPNet: ipNet(netip.MustParsePrefix("10.128.0.5/24"))}))
	m.leaseTo("10.128.0.5", "other", "net0")
	above := &rtnl.Macvlan{LinkAttrs: rtnl.LinkAttrs{Name: "above", ParentIndex: net0.Attrs().Index}, Mode: rtnl.MACVLAN_MODE_BRIDGE}
	if err := other.nl.LinkAdd(above); !errors.Is(err, unix.EOPNOTSUPP) { // this kernel may lack the kind
		m.must(err)
		m.must(other.nl.LinkSetNsFd(above, int(m.namespace.file.Fd())))
	}
	pods := func(want ...string) {
		t.Helper()
		m.Forget()
		m.observe()
		var names []string
		for index := range m.links.pods {
			names = append(names, m.links.name(index))
		}
		if slices.Sort(names); !slices.Equal(names, want) {
			t.Errorf("ports of pods are %q, want %q", names, want)
		}
	}
	pods("vethdown", "vethout")
	m.must(m.nl.LinkDel(m.link(topology.Bridge)))
	pods("vethdown", "vethout", "vethpod")
}
