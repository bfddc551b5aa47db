package dataplane

import (
	"testing"
	"time"

	"github.com/google/nftables"
	rtnl "github.com/vishvananda/netlink"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Each disturbance is announced, and a pass after it makes all good again.
func TestDisturbances(t *testing.T) {
	for name, disturb := range disturbances() {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			news := m.watchSettled(nodes(4))
			disturb(m)
			// What comes first may be late news of before, after which there is nothing to do.
			for found := false; !found; {
				m.expect(news, name+" after which a pass finds something to do")
				drain(news, shortly)
				found = !m.pass(nodes(4)).Empty()
			}
			m.settle(nodes(4))
		})
	}
}

func disturbances() map[string]func(*machine) {
	return map[string]func(*machine){
		"route deleted": func(m *machine) { m.must(m.nl.RouteDel(&m.ours()[0])) },
		"all of ours deleted": func(m *machine) {
			for _, r := range m.ours() {
				m.must(m.nl.RouteDel(&r))
			}
		},
		"route overwritten": func(m *machine) {
			r := m.ours()[1]
			r.Gw, r.Src = []byte{192, 168, 1, 250}, nil
			m.must(m.nl.RouteReplace(&r))
		},
		"link down and up": func(m *machine) {
			m.must(m.nl.LinkSetDown(m.eth0))
			m.up("eth0")
			if m.ipv6 {
				m.addr("eth0", "fd00:192:168:1::11/64")
			}
		},
		"address removed and added back": func(m *machine) {
			for _, s := range []string{"192.168.1.11/24", "fd00:192:168:1::11/64"}[:m.families()] {
				a, _ := rtnl.ParseAddr(s)
				m.must(m.nl.AddrDel(m.eth0, a))
				m.addr("eth0", s)
			}
		},
		"table deleted": func(m *machine) {
			c := m.nft4test()
			c.DelTable(nftTable)
			m.must(c.Flush())
		},
		"rule deleted": func(m *machine) {
			c := m.nft4test()
			chain := &nftables.Chain{Name: "postrouting", Table: nftTable}
			rules, err := c.GetRules(nftTable, chain)
			m.must(err)
			m.must(c.DelRule(rules[1]))
			m.must(c.Flush())
		},
		"set element deleted": func(m *machine) {
			c := m.nft4test()
			m.must(c.SetDeleteElements(families[0].nodesSet(), []nftables.SetElement{{Key: []byte{192, 168, 1, 12}}}))
			m.must(c.Flush())
		},
		"forwarding off":        func(m *machine) { m.sysctl(topology.SysctlForward4, "0") },
		"device forwarding off": func(m *machine) { m.sysctl("net/ipv4/conf/eth0/forwarding", "0") },
		"device forwarding off, IPv6": func(m *machine) {
			m.needIPv6()
			m.sysctl("net/ipv6/conf/eth0/forwarding", "0")
		},
	}
}

func (m *machine) nft4test() *nftables.Conn {
	c, err := nftables.New()
	m.must(err)
	return c
}

func TestOurOwnEchoesAreNoNews(t *testing.T) {
	m := newMachine(t)
	time.Sleep(settling)
	news := m.watchSettled(nodes(3))
	for _, n := range []int{6, 2} {
		m.pass(nodes(n))
		m.quiet(news, "our own changes")
	}
}

func TestPodsComingAndGoingAreNoNews(t *testing.T) {
	m := newMachine(t)
	m.must(m.nl.LinkAdd(&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: topology.Bridge}}))
	m.up(topology.Bridge)
	m.addr(topology.Bridge, "10.128.0.1/24")
	bridge := m.link(topology.Bridge)
	m.must(m.nl.LinkSetHardwareAddr(bridge, bridge.Attrs().HardwareAddr)) // as the plugin does, or each port changes it
	m.addVeth("vethfirst", 1500)
	m.must(m.nl.LinkSetMaster(m.link("vethfirst"), m.link(topology.Bridge)))
	time.Sleep(settling)
	news := m.watchSettled(nodes(3))
	m.addVeth("vethpod", 1500)
	m.must(m.nl.LinkSetMaster(m.link("vethpod"), m.link(topology.Bridge)))
	m.must(m.nl.LinkDel(m.link("vethpod")))
	m.quiet(news, "a pod's port")
}

// More notifications than the socket holds: what is kept is not trusted.
func TestOverflowIsAnAudit(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	for _, c := range m.events {
		m.must(c.SetReadBuffer(4096))
	}
	for i := range 2000 {
		r := m.foreign("172.30.0.0/16", "192.168.1.50", "eth0", i+1, 4)
		m.must(m.nl.RouteAdd(r))
		m.must(m.nl.RouteDel(r))
	}
	m.must(m.nl.RouteDel(&m.ours()[0]))
	news := m.watch()
	m.expect(news, "an overflow")
	drain(news, shortly)
	if m.pass(nodes(2)).Empty() {
		t.Error("what was lost was not found")
	}
}

func BenchmarkNewRoute(b *testing.B) {
	t := &testing.T{}
	m := newMachine(t)
	all := nodes(5000)
	m.settle(all[:4999])
	for b.Loop() {
		m.pass(all)
		m.pass(all[:4999])
	}
}
