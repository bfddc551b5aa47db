package dataplane

import (
	"errors"
	"net"
	"slices"
	"strings"
	"testing"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/seccomp"
)

// A flow to a pod subnet without a Node is masqueraded.
func TestBindingIsDeleted(t *testing.T) {
	forgets(t, func(*machine) {})
}

// The same if the table has to be replaced at that time.
func TestBindingIsDeletedWithANewTable(t *testing.T) {
	forgets(t, func(m *machine) {
		m.nft.DelTable(nftTable)
		m.must(m.nft.Flush())
	})
}

// A Node that leaves and comes back is new again.
func TestBindingIsDeletedOfANodeThatCameBack(t *testing.T) {
	forgets(t, func(m *machine) {
		m.settle(nodes(3))
		m.settle(nodes(2))
	})
}

func forgets(t *testing.T, meanwhile func(*machine)) {
	t.Helper()
	m := newMachine(t)
	all := nodes(3)
	m.settle(all[:2])
	meanwhile(m)
	conntrack, err := rtnl.NewHandle(unix.NETLINK_NETFILTER)
	m.must(err)
	t.Cleanup(conntrack.Close)
	flow := func(port uint16, from, to, replyFrom, replyTo string) {
		t.Helper()
		m.must(conntrack.ConntrackCreate(rtnl.ConntrackTable, unix.AF_INET, &rtnl.ConntrackFlow{
			FamilyType: unix.AF_INET, TimeOut: 100,
			Forward: rtnl.IPTuple{SrcIP: net.ParseIP(from).To4(), DstIP: net.ParseIP(to).To4(), SrcPort: port, DstPort: 53, Protocol: unix.IPPROTO_UDP},
			Reverse: rtnl.IPTuple{SrcIP: net.ParseIP(replyFrom).To4(), DstIP: net.ParseIP(replyTo).To4(), SrcPort: 53, DstPort: port, Protocol: unix.IPPROTO_UDP},
		}))
	}
	const pod, node = "10.128.0.2", "192.168.1.11"
	flow(1, pod, "10.128.2.5", "10.128.2.5", node)        // to the third Node's subnet, masqueraded
	flow(2, pod, "10.128.2.6", "10.128.2.6", pod)         // not masqueraded
	flow(3, pod, "192.0.2.1", "192.0.2.1", node)          // to the world
	flow(4, pod, "10.96.0.10", "10.128.2.7", node)        // by way of a Service
	flow(5, "10.9.9.9", "10.128.2.8", "10.128.2.8", node) // another program's
	m.settle(all)
	left, err := conntrack.ConntrackTableList(rtnl.ConntrackTable, unix.AF_INET)
	m.must(err)
	var ports []uint16
	for _, f := range left {
		if f.Forward.Protocol != unix.IPPROTO_UDP {
			continue // the bridge's own multicast packets
		}
		ports = append(ports, f.Forward.SrcPort)
	}
	slices.Sort(ports)
	if !slices.Equal(ports, []uint16{2, 3, 4, 5}) {
		t.Errorf("left are %v, want all but 1", ports)
	}
}

// Bindings are looked at only where a destination is new. That nothing was masqueraded for a while
// makes none new.
func TestBindingsAreReadForNewDestinations(t *testing.T) {
	m := newMachine(t)
	m.must(m.Apply(t.Context(), plan.Changes{})) // without a table
	all := nodes(3)
	m.settle(all[:2])
	table := *m.observe().Masquerade
	r := seccomp.NewRefuser(t)
	for _, step := range []struct {
		name    string
		changes plan.Changes
		read    bool
	}{
		{"nothing", plan.Changes{}, false},
		{"no masquerading", plan.Of(plan.Replace, plan.Table{Masquerade: &topology.Masquerade{Bridge: topology.Bridge}}), false},
		{"masquerading", plan.Of(plan.Replace, plan.Table{Masquerade: &table}), false},
		{"another Node", sets(plan.Add, plan.SetChange{AddCluster: all[2].PodCIDRs[:1]}), true},
		{"nothing more", plan.Changes{}, false},
	} {
		m.observe()
		end := r.Recording(0, 0)
		err := m.Apply(t.Context(), step.changes)
		kinds := end()
		m.must(err)
		if slices.Contains(kinds, conntrackGet) != step.read {
			t.Errorf("after %s the requests are %v", step.name, kinds)
		}
	}
	r.Requests(unix.ENOMEM, conntrackGet)
	err := m.Apply(t.Context(), sets(plan.Add, plan.SetChange{AddCluster: nodes(4)[3].PodCIDRs[:1]}))
	if keys := failedKeys(err); !errors.Is(err, unix.ENOMEM) || !slices.Equal(keys, []string{"nftables table plainroute"}) {
		t.Errorf("got %v, of %q", err, keys)
	}
	r.Nothing()
}

// A binding that can't be deleted is reported; one that has ended meanwhile is not. Nothing is
// left open.
func TestRefusedDeletionOfBindingsIsReported(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	conntrack, err := rtnl.NewHandle(unix.NETLINK_NETFILTER)
	m.must(err)
	defer conntrack.Close()
	sources, destinations := nodes(1)[0].PodCIDRs, nodes(3)[2].PodCIDRs
	pod, peer, node := sources[0].Addr().Next().AsSlice(), destinations[0].Addr().Next().AsSlice(), net.IP{192, 168, 1, 11}
	m.must(conntrack.ConntrackCreate(rtnl.ConntrackTable, unix.AF_INET, &rtnl.ConntrackFlow{
		FamilyType: unix.AF_INET, TimeOut: 100,
		Forward: rtnl.IPTuple{SrcIP: pod, DstIP: peer, SrcPort: 1, DstPort: 53, Protocol: unix.IPPROTO_UDP},
		Reverse: rtnl.IPTuple{SrcIP: peer, DstIP: node, SrcPort: 53, DstPort: 1, Protocol: unix.IPPROTO_UDP},
	}))
	r := seccomp.NewRefuser(t)
	for errno, reported := range map[unix.Errno]bool{unix.ENOENT: false, unix.ENOMEM: true} {
		r.Requests(errno, conntrackDelete)
		err := m.release(sources, destinations)
		r.Nothing()
		if (err != nil) != reported || reported && (!errors.Is(err, errno) || !strings.HasPrefix(err.Error(), "forgetting a NAT binding: ")) {
			t.Errorf("after %v: %v", errno, err)
		}
	}
	before := m.descriptors()
	for range 20 {
		m.must(m.release(nil, nil))
	}
	if now := m.descriptors(); now >= before+20 {
		t.Errorf("%d file descriptors became %d", before, now)
	}
}
