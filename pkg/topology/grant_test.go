package topology

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// A Node keeps its subnet while its address changes, whatever other Node claims it: an older one,
// or one with the former address.
func TestSubnetStaysWithItsNode(t *testing.T) {
	subnet := netip.MustParsePrefix("10.244.2.0/24")
	claimant := func(name string, age time.Duration, addrs ...string) *Node {
		n := &Node{Name: name, UID: "uid of " + name, Created: time.Unix(1e9, 0).Add(-age), PodCIDRs: []netip.Prefix{subnet}}
		for _, a := range addrs {
			n.Addrs = append(n.Addrs, netip.MustParseAddr(a))
		}
		return n
	}
	own := claimant("node1", time.Hour, "192.168.1.11")
	own.PodCIDRs[0] = netip.MustParsePrefix("10.244.1.0/24")
	opts, host := parseOptions(t, ""), parseHost(t, defaultHost)
	pass := func(before State, nodes ...*Node) State {
		t.Helper()
		actual := before
		actual.Sysctls = allSysctls("eth0").Sysctls
		state, _ := Desired(opts, host, append(nodes, own), actual.After(before))
		return state
	}
	owner := claimant("owner", time.Hour, "192.168.1.12")
	for name, thief := range map[string]*Node{
		"an older Node":                claimant("thief", 9*time.Hour, "192.168.1.66"),
		"one with the former address":  claimant("thief", time.Minute, "192.168.1.12"),
		"one with the former one, too": claimant("thief", time.Minute, "192.168.1.66", "192.168.1.12"),
		"an older one with both":       claimant("thief", 9*time.Hour, "192.168.1.12", "192.168.1.66"),
	} {
		t.Run(name, func(t *testing.T) {
			state := pass(State{}, owner)
			state = pass(state, owner, thief)
			moved := claimant("owner", time.Hour, "192.168.1.13")
			for range 2 {
				state = pass(state, moved, thief)
				if got := state.Routes[1].Via.String(); got != "192.168.1.13" {
					t.Fatalf("the subnet is routed to %s", got)
				}
			}
			away := claimant("owner", time.Hour, "172.16.0.1") // off link for a while
			state = pass(state, away, thief)
			if len(state.Routes) != 1 {
				t.Errorf("while the owner is off link, routes are %v", state.Routes)
			}
			again := claimant("owner", time.Hour, "192.168.1.13")
			again.UID = "another"
			if state = pass(state, again); len(state.Routes) != 2 {
				t.Errorf("made again, and alone, the Node gets no route: %v", state.Routes)
			}
		})
	}
}

// Grants that were saved count as those of the pass before, whatever their order.
func TestSavedGrantsCount(t *testing.T) {
	opts, host := parseOptions(t, ""), parseHost(t, defaultHost)
	node := func(name, subnet, addr string) *Node {
		return &Node{Name: name, UID: "uid of " + name, PodCIDRs: []netip.Prefix{netip.MustParsePrefix(subnet)}, Addrs: []netip.Addr{netip.MustParseAddr(addr)}}
	}
	nodes := []*Node{node("node1", "10.244.1.0/24", "192.168.1.11"), node("near", "10.244.2.0/24", "192.168.1.12"), node("far", "10.244.3.0/24", "172.16.0.1")}
	state, _ := Desired(opts, host, nodes, allSysctls("eth0"))
	saved := state.Grants()
	if len(saved) != 2 || !saved[0].HadRoute || saved[1].HadRoute {
		t.Fatalf("the grants are %+v", saved)
	}
	slices.Reverse(saved)
	if different := changedGrants(state.Granting(saved).granted, state.granted); len(different) > 0 {
		t.Errorf("the grants of %v are others", different)
	}
}
