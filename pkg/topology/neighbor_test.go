package topology

import (
	"fmt"
	"net/netip"
	"testing"
)

// The limits of the neighbor table are raised for peers that have an entry of their own on a link. Peers behind a gateway share its
// entry, and the permanent entries of a tunnel need no room.
func TestNeighborLimitsCountNeighbors(t *testing.T) {
	const peers = 600
	nodes := func(network string) []*Node {
		all := parseNodes(t, "node1 3h 10.244.0.0/24 192.168.1.11\n")
		for i := range peers {
			addr := netip.MustParsePrefix(network).Addr().As4()
			addr[2], addr[3] = byte(i/250), byte(1+i%250)
			all = append(all, NodeFrom(kubeNode(fmt.Sprintf("peer%d", i), 0, []string{fmt.Sprintf("10.%d.%d.0/24", 245+i/250, i%250)}, []string{netip.AddrFrom4(addr).String()})))
		}
		return all
	}
	host := parseHost(t, `
links:
- {name: eth0, mtu: 1500, addrs: [192.168.1.11/24]}
routes:
- {dst: 192.168.1.0/24, dev: eth0, protocol: 2}
- {dst: 172.20.0.0/16, dev: eth0}
- {dst: 172.21.0.0/16, via: 192.168.1.1, dev: eth0}
`)
	onLink, offLink := nodes("172.20.0.0/16"), nodes("172.21.0.0/16")
	for name, c := range map[string]struct {
		set    func(*Options)
		nodes  []*Node
		raised bool
	}{
		"on link":                    {func(*Options) {}, onLink, true},
		"on link, by tunnels":        {func(o *Options) { o.Encapsulation = EncapsulateAlways }, onLink, true},
		"off link, by tunnels":       {func(o *Options) { o.Encapsulation = EncapsulateAlways }, offLink, false},
		"off link, by their gateway": {func(o *Options) { o.OffLink = OffLinkGateway }, offLink, false},
	} {
		opts := Options{NodeName: "node1", Bridge: Bridge, VNI: 112, VXLANPort: 4789}
		c.set(&opts)
		actual := withKernel(State{})
		actual.Sysctls[NeighSysctl(4, 3)] = "1024"
		state, problems := Desired(opts, host, c.nodes, actual)
		if _, raised := state.Sysctls[NeighSysctl(4, 3)]; raised != c.raised {
			t.Errorf("%s: raised %t: %v", name, raised, problems)
		}
		steps(t, opts, host, c.nodes[:400], c.nodes[:401], c.nodes, c.nodes[:599])
	}
}
