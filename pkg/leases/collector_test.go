package leases

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/inspect"
)

// A node has pods in network namespaces, and host-local's leases.
type node struct {
	*Collector
	t          *testing.T
	held       map[netip.Addr]cni.Holder
	namespaces map[int]inspect.PeerNamespace
	port       int // the latest index
	changes    uint64
	clock      time.Time
	scans      int
	broken     error
}

func newNode(t *testing.T) *node {
	n := &node{t: t, held: map[netip.Addr]cni.Holder{}, namespaces: map[int]inspect.PeerNamespace{}, clock: time.Unix(1, 0)}
	n.restart()
	return n
}

func (n *node) restart() {
	n.Collector = &Collector{Store: n, Host: n, LinkChanges: func() uint64 { return n.changes }, Grace: grace, now: func() time.Time { return n.clock }}
}

func (n *node) HeldLeases() (all []cni.Lease, err error) {
	for addr, h := range n.held {
		all = append(all, cni.Lease{Addr: addr, Holder: h})
	}
	return all, nil
}

func (n *node) Release(_ context.Context, leases []cni.Lease) (released int, err error) {
	for _, l := range leases {
		if h, there := n.held[l.Addr]; there && h == l.Holder {
			delete(n.held, l.Addr)
			released++
		}
	}
	return released, nil
}

func (n *node) PeerNamespaces(string) (all []inspect.PeerNamespace, err error) {
	n.scans++
	for _, g := range n.namespaces {
		all = append(all, g)
	}
	return all, n.broken
}

// pod attaches one with a lease of each address.
func (n *node) pod(id int, addrs ...string) {
	n.empty(id)
	for _, a := range addrs {
		n.lease(a, fmt.Sprintf("pod%d-%d", id, n.port))
	}
	g := n.namespaces[id]
	g.Addrs = parse(addrs...)
	n.namespaces[id] = g
}

// empty makes a namespace with a port and no address.
func (n *node) empty(id int) {
	n.port++
	n.changes++
	n.namespaces[id] = inspect.PeerNamespace{ID: id, Ports: []int{n.port}}
}

func (n *node) lease(addr, container string) {
	n.held[netip.MustParseAddr(addr)] = cni.Holder{Container: container, Device: "eth0"}
}

// die takes a pod's namespace away without DEL.
func (n *node) die(id int) {
	delete(n.namespaces, id)
	n.changes++
}

func (n *node) show(id int, addrs ...string) {
	g := n.namespaces[id]
	g.Addrs = parse(addrs...)
	n.namespaces[id] = g
}

func (n *node) cut(id int) {
	g := n.namespaces[id]
	g.Ports, g.Addrs = nil, nil
	n.namespaces[id] = g
	n.changes++
}

func parse(addrs ...string) (all []netip.Addr) {
	for _, a := range addrs {
		all = append(all, netip.MustParseAddr(a))
	}
	return all
}

// pass lets time pass, with a scan each period.
func (n *node) pass(d time.Duration) {
	n.t.Helper()
	for end := n.clock.Add(d); ; n.clock = n.clock.Add(period) {
		if err := n.scan(n.t.Context()); err != nil {
			n.t.Fatal(err)
		}
		if !n.clock.Before(end) {
			return
		}
	}
}

// leases fails the test unless these addresses are leased, and no others.
func (n *node) leases(want ...string) {
	n.t.Helper()
	var have []string
	for addr := range n.held {
		have = append(have, addr.String())
	}
	slices.Sort(have)
	if !slices.Equal(have, want) {
		n.t.Errorf("leased are %v, want %v", have, want)
	}
}

const long = time.Hour

// leaseCases are sequences of scans, with the leases that are left.
var leaseCases = map[string]struct {
	do   func(*node)
	left []string
}{
	"of a live pod":                         {func(n *node) { n.pod(1, "10.0.0.2", "fd00::2"); n.pass(long) }, []string{"10.0.0.2", "fd00::2"}},
	"of a dead pod":                         {func(n *node) { n.pod(1, "10.0.0.2", "fd00::2"); n.pass(period); n.die(1); n.pass(50 * time.Second) }, nil},
	"of one that died before the agent ran": {func(n *node) { n.lease("10.0.0.2", "gone"); n.pass(50 * time.Second) }, nil},
	"without a holder":                      {func(n *node) { n.lease("10.0.0.2", ""); n.pass(50 * time.Second) }, nil},
	"of one that died a moment ago": {
		func(n *node) { n.pod(1, "10.0.0.2"); n.pass(period); n.die(1); n.pass(period) }, []string{"10.0.0.2"},
	},
	"given to another pod meanwhile": {func(n *node) {
		n.pod(1, "10.0.0.2")
		n.die(1)
		n.pass(period)
		n.clock = n.clock.Add(period)
		n.lease("10.0.0.2", "next") // its namespace comes in a moment
		n.pass(period)
	}, []string{"10.0.0.2"}},
	"of a pod that lost its address": {func(n *node) { n.pod(1, "10.0.0.2"); n.pass(period); n.show(1); n.changes++; n.pass(long) }, []string{"10.0.0.2"}},
	"of a pod that lost its cable":   {func(n *node) { n.pod(1, "10.0.0.2"); n.pass(period); n.cut(1); n.pass(long) }, []string{"10.0.0.2"}},
	"of a pod that lost its cable, and then died": {
		func(n *node) {
			n.pod(1, "10.0.0.2")
			n.pass(period)
			n.cut(1)
			n.pass(long)
			n.die(1)
			n.pass(50 * time.Second)
		}, nil,
	},
	"of a pod that lost its cable, and then died unseen": {
		func(n *node) {
			n.pod(1, "10.0.0.2")
			n.pass(period)
			n.cut(1)
			n.pass(long)
			delete(n.namespaces, 1)
			n.pass(50 * time.Second)
		}, nil,
	},
	"of a pod that lost its cable before the agent ran": {
		func(n *node) { n.pod(1, "10.0.0.2"); n.pass(period); n.cut(1); n.restart(); n.pass(long) }, []string{"10.0.0.2"},
	},
	"of a pod that has shown no address": {func(n *node) { n.empty(1); n.lease("10.0.0.2", "gvisor"); n.pass(long) }, []string{"10.0.0.2"}},
	"of a pod that shows another network's address alone since before the agent ran": {
		func(n *node) { n.pod(1, "10.0.0.2"); n.show(1, "192.168.7.2"); n.pass(long) }, []string{"10.0.0.2"},
	},
	"of a pod that had lost one of its two before the agent ran": {
		func(n *node) { n.pod(1, "10.0.0.2", "fd00::2"); n.show(1, "10.0.0.2"); n.pass(long) }, []string{"10.0.0.2", "fd00::2"},
	},
	"of a dead pod, beside one of another network": {func(n *node) {
		n.namespaces[7] = inspect.PeerNamespace{ID: 7, Ports: []int{2}, Addrs: parse("172.17.0.2"), Foreign: true}
		n.lease("10.0.0.2", "gone")
		n.lease("fd00::2", "")
		n.pass(50 * time.Second)
	}, nil},
	"of a pod whose address comes late": {func(n *node) {
		n.empty(1)
		n.pass(2 * time.Minute)
		n.lease("10.0.0.2", "slow")
		n.pass(long)
	}, []string{"10.0.0.2"}},
	"of a pod that was made during a scan, and then took its address off its device": {func(n *node) {
		n.empty(1)
		n.show(1, "10.0.0.2") // the leases had been read by then
		n.pass(0)
		n.lease("10.0.0.2", "gvisor")
		n.show(1)
		n.pass(long)
	}, []string{"10.0.0.2"}},
	"of a dead pod, beside one that has shown no address": {func(n *node) {
		n.empty(1)
		n.pass(long)
		n.pod(2, "10.0.0.3")
		n.pass(period)
		n.die(2)
		n.pass(50 * time.Second)
	}, nil},
	"of a dead pod, beside one that lost its address": {func(n *node) {
		n.pod(1, "10.0.0.2")
		n.lease("10.0.0.9", "gone")
		n.pass(0)
		n.show(1)
		n.pass(50 * time.Second)
	}, []string{"10.0.0.2"}},
	"of one whose address came late, and who died a moment ago": {func(n *node) {
		n.empty(1)
		n.lease("10.0.0.2", "slow")
		n.pass(period)
		n.show(1, "10.0.0.2")
		n.pass(time.Minute)
		n.die(1)
		n.pass(period)
	}, []string{"10.0.0.2"}},
	"of a dead pod, beside others in the making": {func(n *node) {
		n.lease("10.0.0.2", "gone")
		n.pass(period)
		for id := range 5 {
			n.clock = n.clock.Add(period)
			n.empty(id + 1) // one at each scan
			n.pass(0)
		}
	}, nil},
	"of a dead pod, beside a node that runs this one": {func(n *node) {
		n.namespaces[7] = inspect.PeerNamespace{ID: 7, Ports: []int{2}, Foreign: true}
		n.lease("10.0.0.2", "gone")
		n.pass(50 * time.Second)
	}, nil},
	"of a dead pod whose number another has got": {func(n *node) {
		n.pod(1, "10.0.0.2")
		n.pass(period)
		n.die(1)
		n.pod(1, "10.0.0.3")
		n.pass(50 * time.Second)
	}, []string{"10.0.0.3"}},
}

func TestLeases(t *testing.T) {
	for name, c := range leaseCases {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			c.do(n)
			n.leases(c.left...)
		})
	}
}

// Where nothing was added or deleted, no network namespace is read.
func TestNothingIsReadAtRest(t *testing.T) {
	n := newNode(t)
	n.pass(long)
	n.pod(1, "10.0.0.2")
	n.pass(long)
	if n.scans != 2 {
		t.Errorf("with a pod that came and stays, namespaces are read %d times", n.scans)
	}
}

// So it is beside pods whose addresses can't be seen.
func TestNothingIsReadAtRestBesideHiddenAddresses(t *testing.T) {
	n := newNode(t)
	n.empty(1)
	n.lease("10.0.0.2", "gvisor")
	n.pod(2, "10.0.0.3")
	n.pass(0)
	n.show(2) // it takes its address off
	n.changes++
	n.pass(long)
	if n.scans != 2 {
		t.Errorf("namespaces are read %d times", n.scans)
	}
	n.die(1)
	n.die(2)
	n.pass(50 * time.Second)
	n.leases()
}

// A failed read neither removes a lease nor counts as a scan without a pod.
func TestAFailedLookCountsForNothing(t *testing.T) {
	n := newNode(t)
	n.pod(1, "10.0.0.2")
	n.pass(period)
	n.changes++
	pod := n.namespaces[1]
	delete(n.namespaces, 1)
	n.broken = errors.New("no answer")
	for range 10 {
		n.clock = n.clock.Add(period)
		if err := n.scan(t.Context()); err == nil {
			t.Fatal("a failure is not returned")
		}
	}
	n.namespaces[1], n.broken = pod, nil
	n.pass(period)
	n.leases("10.0.0.2")
}
