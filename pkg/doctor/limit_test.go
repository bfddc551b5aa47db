package doctor

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// limited is a node whose kernel has these limits, because only the first namespace has any.
func (l *lan) limited(soft, hard int) *Target {
	l.t.Helper()
	p := l.target()
	p.ProcSys = l.t.TempDir()
	for which, value := range map[int]int{2: soft, 3: hard} {
		for _, family := range []int{4, 6} {
			path := filepath.Join(p.ProcSys, topology.NeighSysctl(family, which))
			l.must(os.MkdirAll(filepath.Dir(path), 0o755))
			l.must(os.WriteFile(path, fmt.Appendln(nil, value), 0o644))
		}
	}
	return p
}

func TestNeighborLimits(t *testing.T) {
	l := newLAN(t)
	well(t, runCheck(t, "neighbor-limits", l.limited(512, 1024)))
	for n := range 160 {
		l.addNode(60 + n).Spec.PodCIDRs = nil
	}
	for i := range l.nodes {
		l.nodes[i].Spec.PodCIDRs = []string{"fd00:10:244:1::/64"}
	}
	finds(t, runCheck(t, "neighbor-limits", l.limited(128, 256)), problem.Error, "neighbor table of IPv6") // and not IPv4's
	for i := range l.nodes {
		l.nodes[i].Spec.PodCIDRs = []string{"10.244.1.0/24"}
	}
	finds(t, runCheck(t, "neighbor-limits", l.limited(256, 1024)), problem.Warning, "removes entries", "gc_thresh2 256")
	finds(t, runCheck(t, "neighbor-limits", l.limited(128, 256)), problem.Error, "too small for this cluster", "gc_thresh3=1024")
	finds(t, runCheck(t, "neighbor-limits", l.target()), problem.Unknown, "are not visible here")
	l.must(addRoute(l.nl, "198.51.100.0/24", "192.168.1.12", 4))
	for i := range l.nodes[1:] { // all behind one gateway
		l.nodes[1+i].Status.Addresses[0].Address = fmt.Sprintf("198.51.100.%d", 1+i)
	}
	well(t, runCheck(t, "neighbor-limits", l.limited(128, 256)))
}

// The table of a real kernel, filled.
func TestNeighborTableIsFull(t *testing.T) {
	l := newLAN(t)
	l.nodes[0].Spec.PodCIDRs = l.nodes[0].Spec.PodCIDRs[:1]
	link, err := l.nl.LinkByName("lan0")
	l.must(err)
	for n := range 240 {
		l.must(l.nl.NeighAdd(&rtnl.Neigh{LinkIndex: link.Attrs().Index, IP: net.IPv4(192, 168, 1, byte(n+12)), HardwareAddr: mac(n), State: unix.NUD_STALE}))
	}
	finds(t, runCheck(t, "neighbor-limits", l.limited(128, 256)), problem.Error, "full or nearly full", "entries, room", "gc_thresh3 is 256")
}
