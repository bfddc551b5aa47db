package doctor

import (
	"net"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/plainroute/plainroute/pkg/inspect"
	"github.com/plainroute/plainroute/pkg/problem"
)

func TestNeighborsAnswer(t *testing.T) {
	l := newLAN(t)
	l.peer(2)
	l.peer(3)
	p := l.target()
	took := quickest(func() {
		well(t, runCheck(t, "neighbors", p))
		well(t, runCheck(t, "mac-addresses", p))
		well(t, runCheck(t, "path-mtu", p))
		well(t, runCheck(t, "pod-packets", p))
	})
	if took > 2*time.Second {
		t.Errorf("it took %s where everybody answers", took)
	}
}

func TestNeighborDoesNotAnswer(t *testing.T) {
	l := newLAN(t)
	l.peer(2)
	l.addNode(3)
	l.route(3, "192.168.1.13")
	finds(t, runCheck(t, "neighbors", l.target()), problem.Error, "node3", "192.168.1.13 dev lan0 FAILED")
}

// A peer that is NotReady is not this node's problem.
func TestNeighborIsNotReady(t *testing.T) {
	l := newLAN(t)
	l.peer(2)
	l.addNode(3).Status.Conditions[0].Status = corev1.ConditionUnknown
	l.route(3, "192.168.1.13")
	finds(t, runCheck(t, "neighbors", l.target()), problem.Warning, "node3", "NotReady")
}

func TestNoNeighborAnswers(t *testing.T) {
	l := newLAN(t)
	for _, n := range []int{2, 3} {
		l.addNode(n)
	}
	l.route(2, "192.168.1.12")
	l.route(3, "192.168.1.13")
	finds(t, runCheck(t, "neighbors", l.target()), problem.Error, "no peer answers on the link", "cable, VLAN")
}

// An old entry of the neighbor table proves nothing: the peer is probed again.
func TestNeighborLeft(t *testing.T) {
	l := newLAN(t)
	l.peer(2)
	l.addNode(3)
	l.route(3, "192.168.1.13")
	link, err := l.nl.LinkByName("lan0")
	l.must(err)
	for _, addr := range []string{"192.168.1.13", "fd00:192:168:1::13"} {
		l.must(l.nl.NeighAdd(&rtnl.Neigh{LinkIndex: link.Attrs().Index, IP: net.ParseIP(addr), HardwareAddr: mac(99), State: unix.NUD_STALE}))
	}
	finds(t, runCheck(t, "neighbors", l.target()), problem.Error, "node3")
}

// A peer that stopped a moment ago stays REACHABLE for half a minute, and is reported within
// seconds all the same. One whose firewall drops probes does not count as stopped.
func TestNeighborStopped(t *testing.T) {
	l := newLAN(t)
	l.peer(2)
	dead, quiet := l.peer(3), l.peer(4)
	well(t, runCheck(t, "neighbors", l.target())) // now all are REACHABLE
	p := l.target()
	card, err := dead.nl.LinkByName("eth0")
	l.must(err)
	l.must(dead.nl.LinkSetDown(card))
	quiet.dropUDP()
	for _, one := range []string{"192.168.1.13", "192.168.1.14"} {
		if state := l.neighbour(p, one); state != inspect.Reachable {
			t.Fatalf("%s is %s", one, state)
		}
	}
	begin := time.Now()
	finds(t, runCheck(t, "neighbors", p), problem.Error, "reached from here: node3", "192.168.1.13 dev lan0 FAILED", "fd00:192:168:1::13 dev lan0 FAILED")
	if took := time.Since(begin); took > 2*resolving {
		t.Errorf("it took %s", took)
	}
}

func (l *lan) neighbour(t *Target, addr string) inspect.NeighborState {
	l.t.Helper()
	table, err := t.Kernel.Neighbors()
	l.must(err)
	for _, n := range table {
		if n.Addr.String() == addr {
			return n.State
		}
	}
	return ""
}

// A refusal by this node's firewall does not count as a peer's answer.
func TestFirewallOfThisNodeRefuses(t *testing.T) {
	l := newLAN(t)
	l.peer(2)
	nft, err := nftables.New()
	l.must(err)
	table := l.stopUDP(nft, nftables.ChainHookOutput, &expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH})
	t.Cleanup(func() {
		nft.DelTable(table)
		l.must(nft.Flush())
	})
	p := l.target()
	finds(t, runCheck(t, "neighbors", p), problem.Unknown, "own firewall")
	finds(t, runCheck(t, "pod-packets", p), problem.Unknown, "no peer answers")
}

// If this node's firewall drops the probes, the kernel resolves no neighbor, so no peer counts as
// silent.
func TestFirewallOfThisNode(t *testing.T) {
	l := newLAN(t)
	l.peer(2)
	l.peer(3)
	nft, err := nftables.New()
	l.must(err)
	table := l.stopUDP(nft, nftables.ChainHookOutput, &expr.Verdict{Kind: expr.VerdictDrop})
	t.Cleanup(func() {
		nft.DelTable(table)
		l.must(nft.Flush())
	})
	finds(t, runCheck(t, "neighbors", l.target()), problem.Unknown, "operation not permitted", "UDP")
	l.addNode(4)
	l.route(4, "192.168.1.14")
	link, err := l.nl.LinkByName("lan0")
	l.must(err)
	for _, addr := range []string{"192.168.1.14", "fd00:192:168:1::14"} { // to which another program sent packets
		l.must(l.nl.NeighAdd(&rtnl.Neigh{LinkIndex: link.Attrs().Index, IP: net.ParseIP(addr), HardwareAddr: mac(99), State: unix.NUD_STALE}))
	}
	finds(t, runCheck(t, "neighbors", l.target()), problem.Error, "node4")
}

// Nor do leases count as leaked then.
func TestLeasesBehindFirewallOfThisNode(t *testing.T) {
	h := newHost(t)
	h.pod("pod1")
	h.hide("pod1")
	nft, err := nftables.New()
	h.must(err)
	table := h.stopUDP(nft, nftables.ChainHookOutput, &expr.Verdict{Kind: expr.VerdictDrop})
	t.Cleanup(func() {
		nft.DelTable(table)
		h.must(nft.Flush())
	})
	finds(t, runCheck(t, "leases", h.look()), problem.Unknown, "own firewall")
}

// dropUDP makes a firewall of the machine drop doctor's probes.
func (m *machine) dropUDP() {
	m.t.Helper()
	nft, err := nftables.New(nftables.WithNetNSFd(int(m.fd)))
	m.must(err)
	m.stopUDP(nft, nftables.ChainHookInput, &expr.Verdict{Kind: expr.VerdictDrop})
}

func (l *lan) stopUDP(nft *nftables.Conn, hook *nftables.ChainHook, end expr.Any) *nftables.Table {
	l.t.Helper()
	table := nft.AddTable(&nftables.Table{Name: "quiet", Family: nftables.TableFamilyINet})
	chain := nft.AddChain(&nftables.Chain{Name: "udp", Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter})
	nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_UDP}},
		end,
	}})
	l.must(nft.Flush())
	return table
}

func TestMACAddressesOfClones(t *testing.T) {
	l := newLAN(t)
	l.peer(2)
	l.peer(3)
	clone := l.peer(4)
	card, err := clone.nl.LinkByName("eth0")
	l.must(err)
	l.must(clone.nl.LinkSetHardwareAddr(card, mac(13)))
	found := runCheck(t, "mac-addresses", l.target())
	finds(t, found, problem.Error, "node3, node4", "02:00:00:00:00:0d", "machine-id")
}

func TestMACAddressOfThisNode(t *testing.T) {
	l := newLAN(t)
	l.peer(2)
	link, err := l.nl.LinkByName("lan0")
	l.must(err)
	l.addNode(3)
	l.must(l.nl.NeighAdd(&rtnl.Neigh{LinkIndex: link.Attrs().Index, IP: net.ParseIP("192.168.1.13"), HardwareAddr: mac(11), State: unix.NUD_PERMANENT}))
	finds(t, runCheck(t, "mac-addresses", l.target()), problem.Error, "MAC address of this node", "node3")
}

// A router that answers for all peers is not a cloned machine.
func TestMACAddressOfRouter(t *testing.T) {
	l := newLAN(t)
	router := l.machine("router", mac(1))
	addAddrs(t, router.nl, "eth0", "192.168.1.12/24", "192.168.1.13/24", "192.168.1.14/24")
	for _, n := range []int{2, 3, 4} {
		l.addNode(n).Spec.PodCIDRs = []string{prefixes(n)[0].String()}
	}
	finds(t, runCheck(t, "mac-addresses", l.target()), problem.Warning, "proxy ARP", "route for each pod subnet")
}
