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

func TestNeighboursAnswer(t *testing.T) {
	l := newLAN(t)
	l.peer(2)
	l.peer(3)
	p := l.patient()
	took := quickest(func() {
		well(t, neighbours(t.Context(), p))
		well(t, cards(t.Context(), p))
		well(t, pathMTU(t.Context(), p))
		well(t, podPackets(t.Context(), p))
	})
	if took > 2*time.Second {
		t.Errorf("it took %s where everybody answers", took)
	}
}

func TestNeighbourDoesNotAnswer(t *testing.T) {
	l := newLAN(t)
	l.peer(2)
	l.addNode(3)
	l.route(3, "192.168.1.13")
	finds(t, neighbours(t.Context(), l.patient()), problem.Error, "node3", "192.168.1.13 dev lan0 FAILED")
}

// What the API server misses too is no fault of this node's.
func TestNeighbourIsAway(t *testing.T) {
	l := newLAN(t)
	l.peer(2)
	l.addNode(3).Status.Conditions[0].Status = corev1.ConditionUnknown
	l.route(3, "192.168.1.13")
	finds(t, neighbours(t.Context(), l.patient()), problem.Warning, "node3", "NotReady")
}

func TestNobodyAnswers(t *testing.T) {
	l := newLAN(t)
	for _, n := range []int{2, 3} {
		l.addNode(n)
	}
	l.route(2, "192.168.1.12")
	l.route(3, "192.168.1.13")
	finds(t, neighbours(t.Context(), l.patient()), problem.Error, "no peer at all", "cable, VLAN")
}

// An entry that was good once is no proof: the peer is asked again.
func TestNeighbourLeft(t *testing.T) {
	l := newLAN(t)
	l.peer(2)
	l.addNode(3)
	l.route(3, "192.168.1.13")
	link, err := l.nl.LinkByName("lan0")
	l.must(err)
	for _, addr := range []string{"192.168.1.13", "fd00:192:168:1::13"} {
		l.must(l.nl.NeighAdd(&rtnl.Neigh{LinkIndex: link.Attrs().Index, IP: net.ParseIP(addr), HardwareAddr: mac(99), State: unix.NUD_STALE}))
	}
	finds(t, neighbours(t.Context(), l.patient()), problem.Error, "node3")
}

// A peer that died a moment ago is REACHABLE for half a minute yet, and is named within
// seconds all the same; one whose firewall drops what it is asked is not taken for dead.
func TestNeighbourDied(t *testing.T) {
	l := newLAN(t)
	l.peer(2)
	dead, quiet := l.peer(3), l.peer(4)
	well(t, neighbours(t.Context(), l.patient())) // now all are REACHABLE
	p := l.patient()
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
	finds(t, neighbours(t.Context(), p), problem.Error, "reached from here: node3", "192.168.1.13 dev lan0 FAILED", "fd00:192:168:1::13 dev lan0 FAILED")
	if took := time.Since(begin); took > 2*resolving {
		t.Errorf("it took %s", took)
	}
}

func (l *lan) neighbour(p *Patient, addr string) inspect.NeighborState {
	l.t.Helper()
	table, err := p.Kernel.Neighbors()
	l.must(err)
	for _, n := range table {
		if n.Addr.String() == addr {
			return n.State
		}
	}
	return ""
}

// A firewall of this node that refuses what the doctor sends is no peer that answers.
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
	p := l.patient()
	finds(t, neighbours(t.Context(), p), problem.Unknown, "own firewall")
	finds(t, podPackets(t.Context(), p), problem.Unknown, "no peer answers")
}

// A firewall of this node that drops what the doctor sends keeps the kernel from asking: nobody is silent for that.
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
	finds(t, neighbours(t.Context(), l.patient()), problem.Unknown, "operation not permitted", "UDP")
	l.addNode(4)
	l.route(4, "192.168.1.14")
	link, err := l.nl.LinkByName("lan0")
	l.must(err)
	for _, addr := range []string{"192.168.1.14", "fd00:192:168:1::14"} { // whom somebody else sought
		l.must(l.nl.NeighAdd(&rtnl.Neigh{LinkIndex: link.Attrs().Index, IP: net.ParseIP(addr), HardwareAddr: mac(99), State: unix.NUD_STALE}))
	}
	finds(t, neighbours(t.Context(), l.patient()), problem.Error, "node4")
}

// Nor are the addresses of pods leaked for that, where they have to be asked.
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
	finds(t, leakedLeases(t.Context(), h.look()), problem.Unknown, "own firewall")
}

// dropUDP makes the machine one with a firewall that drops what the doctor sends.
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

func TestCardsOfClones(t *testing.T) {
	l := newLAN(t)
	l.peer(2)
	l.peer(3)
	clone := l.peer(4)
	card, err := clone.nl.LinkByName("eth0")
	l.must(err)
	l.must(clone.nl.LinkSetHardwareAddr(card, mac(13)))
	found := cards(t.Context(), l.patient())
	finds(t, found, problem.Error, "node3, node4", "02:00:00:00:00:0d", "machine-id")
}

func TestCardOfThisNode(t *testing.T) {
	l := newLAN(t)
	l.peer(2)
	link, err := l.nl.LinkByName("lan0")
	l.must(err)
	l.addNode(3)
	l.must(l.nl.NeighAdd(&rtnl.Neigh{LinkIndex: link.Attrs().Index, IP: net.ParseIP("192.168.1.13"), HardwareAddr: mac(11), State: unix.NUD_PERMANENT}))
	finds(t, cards(t.Context(), l.patient()), problem.Error, "MAC address of this node", "node3")
}

// A router that answers for all is no clone.
func TestCardsOfRouter(t *testing.T) {
	l := newLAN(t)
	router := l.machine("router", mac(1))
	addAddrs(t, router.nl, "eth0", "192.168.1.12/24", "192.168.1.13/24", "192.168.1.14/24")
	for _, n := range []int{2, 3, 4} {
		l.addNode(n).Spec.PodCIDRs = []string{prefixes(n)[0].String()}
	}
	finds(t, cards(t.Context(), l.patient()), problem.Warning, "proxy ARP", "route for each pod subnet")
}
