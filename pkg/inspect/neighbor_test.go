package inspect

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/seccomp"
)

func (m *machine) neighbor(addr string, state int) {
	m.t.Helper()
	m.must(m.nl.NeighAdd(&rtnl.Neigh{LinkIndex: m.eth0.Attrs().Index, IP: net.ParseIP(addr), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}, State: state}))
}

func TestNeighbors(t *testing.T) {
	m := newMachine(t)
	m.needIPv6()
	i := m.inspector()
	before, err := i.NeighborCount(4)
	m.must(err)
	m.neighbor("192.168.1.12", unix.NUD_REACHABLE)
	m.neighbor("192.168.1.13", unix.NUD_PERMANENT) // which the kernel never throws out
	m.neighbor("fd00:192:168:1::12", unix.NUD_STALE)
	all, err := i.Neighbors()
	m.must(err)
	var got []string
	for _, n := range all {
		if n.Dev == "eth0" && n.MAC == "02:00:00:00:00:09" {
			got = append(got, n.String())
		}
	}
	want := []string{
		"192.168.1.12 dev eth0 lladdr 02:00:00:00:00:09 REACHABLE", "192.168.1.13 dev eth0 lladdr 02:00:00:00:00:09 PERMANENT",
		"fd00:192:168:1::12 dev eth0 lladdr 02:00:00:00:00:09 STALE",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if after, err := i.NeighborCount(4); err != nil || after != before+1 {
		t.Errorf("there are %d entries after %d, and one was added that counts (%v)", after, before, err)
	}
}

// Neighbors are sorted by address and device, without the kernel's entries for multicast groups.
func TestOrderOfNeighbors(t *testing.T) {
	m := newMachine(t)
	m.addVeth("eth1", 1500)
	i := m.inspector()
	counts := func() [2]int {
		four, err := i.NeighborCount(4)
		m.must(err)
		six, err := i.NeighborCount(6)
		m.must(err)
		return [2]int{four, six}
	}
	before := counts()
	for _, state := range []struct {
		addr, dev string
		state     int
	}{
		{"192.168.1.13", "eth1", unix.NUD_STALE},
		{"192.168.1.13", "eth0", unix.NUD_NOARP},
		{"224.0.0.77", "eth0", unix.NUD_NOARP},
		{"224.0.0.78", "eth0", unix.NUD_PERMANENT},
		{"10.0.0.9", "eth1", unix.NUD_INCOMPLETE},
	} {
		neighbor := rtnl.Neigh{LinkIndex: m.link(state.dev).Attrs().Index, IP: net.ParseIP(state.addr), State: state.state}
		if state.state != unix.NUD_INCOMPLETE {
			neighbor.HardwareAddr = net.HardwareAddr{2, 0, 0, 0, 0, 9}
		}
		m.must(m.nl.NeighAdd(&neighbor))
	}
	all, err := i.Neighbors()
	m.must(err)
	if after := counts(); after != [2]int{before[0] + 3, before[1]} {
		t.Errorf("there were %d entries of both families that count against the limits, and now %d", before, after)
	}
	var got []string
	for _, n := range all {
		if n.Addr.Is4() && strings.HasPrefix(n.Dev, "eth") {
			got = append(got, n.String())
		}
	}
	want := []string{
		"10.0.0.9 dev eth1 INCOMPLETE", "192.168.1.13 dev eth0 lladdr 02:00:00:00:00:09 NOARP", "192.168.1.13 dev eth1 lladdr 02:00:00:00:00:09 STALE",
		"224.0.0.78 dev eth0 lladdr 02:00:00:00:00:09 PERMANENT",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Refused requests are reported.
func TestRefusedNeighborRequestsAreReported(t *testing.T) {
	m := newMachine(t)
	i := m.inspector()
	m.neighbor("192.168.1.14", unix.NUD_REACHABLE)
	n := Neighbor{netip.MustParseAddr("192.168.1.14"), "eth0", "02:00:00:00:00:09", Reachable}
	if err := i.ProbeNeighbor(Neighbor{Addr: netip.MustParseAddr("192.168.1.15"), Dev: "eth0"}); !errors.Is(err, unix.EINVAL) {
		t.Errorf("an unknown one: %v", err)
	}
	neighbors := func() error { _, err := i.Neighbors(); return err }
	r := seccomp.NewRefuser(t)
	for _, c := range []struct {
		kind uint16
		do   func() error
		want string
	}{
		{unix.RTM_GETLINK, neighbors, "listing links: "},
		{unix.RTM_GETNEIGH, neighbors, "listing neighbors: "},
		{unix.RTM_GETNEIGH, func() error { _, err := i.NeighborCount(4); return err }, "listing neighbors: "},
		{unix.RTM_GETLINK, func() error { _, err := i.Devices(); return err }, "listing links: "},
		{unix.RTM_GETLINK, func() error { return i.ProbeNeighbor(n) }, "asking 192.168.1.14: "},
		{unix.RTM_NEWNEIGH, func() error { return i.ProbeNeighbor(n) }, "asking 192.168.1.14: "},
	} {
		r.Requests(unix.ENOMEM, c.kind)
		if err := c.do(); !errors.Is(err, unix.ENOMEM) || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("without requests of kind %d: got %v, want %s", c.kind, err, c.want)
		}
	}
}

// In the initial network namespace the count is the kernel's, without permanent entries.
func TestNeighborCountOfAllNamespaces(t *testing.T) {
	i, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	for family, name := range map[int]string{4: "arp_cache", 6: "ndisc_cache"} {
		count := func() (n int) {
			content, err := os.ReadFile("/proc/thread-self/net/stat/" + name)
			if err != nil {
				t.Skipf("the kernel shows no count here: %v", err)
			}
			if _, err := fmt.Sscanf(strings.SplitN(string(content), "\n", 3)[1], "%x", &n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		for end := time.Now().Add(time.Minute); ; { // others may come and go meanwhile
			before := count()
			n, err := i.NeighborCount(family)
			all, failure := i.Neighbors()
			permanent := len(slices.DeleteFunc(all, func(e Neighbor) bool { return e.Addr.Is4() != (family == 4) || e.State != Permanent }))
			if err = errors.Join(err, failure); err == nil && n+permanent == before && before == count() {
				break
			}
			if err != nil || time.Now().After(end) {
				t.Fatalf("got %d, %v, and the kernel counts %d", n, err, before)
			}
		}
	}
}

// A neighbor that is gone stays REACHABLE for half a minute, unless it is probed.
func TestProbeNeighbor(t *testing.T) {
	m := newMachine(t)
	m.needIPv6()
	i := m.inspector()
	m.neighbor("192.168.1.14", unix.NUD_REACHABLE)
	m.neighbor("fd00:192:168:1::14", unix.NUD_REACHABLE)
	state := func() map[string]NeighborState {
		all, err := i.Neighbors()
		m.must(err)
		states := map[string]NeighborState{}
		for _, n := range all {
			states[n.Addr.String()] = n.State
		}
		return states
	}
	for _, addr := range []string{"192.168.1.14", "fd00:192:168:1::14"} {
		n := Neighbor{netip.MustParseAddr(addr), "eth0", "02:00:00:00:00:09", Reachable}
		m.must(i.ProbeNeighbor(n))
		if got := state()[addr]; got != Probe {
			t.Errorf("%s is %s while it is asked", addr, got)
		}
		n.Dev = "none"
		if i.ProbeNeighbor(n) == nil {
			t.Error("a link that there is not can be asked on")
		}
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		s := state()
		if s["192.168.1.14"] == Failed && s["fd00:192:168:1::14"] == Failed {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("no host is there, and they are %v", s)
		}
	}
}

// The statistics of the initial namespace, here with two CPUs, are those of all.
func TestNeighborCountOfKernel(t *testing.T) {
	const stat = "entries  allocs   destroys hash_grows lookups  hits     res_failed rcv_probes_mcast rcv_probes_ucast periodic_gc_runs forced_gc_runs unresolved_discards table_fulls\n" +
		"000003e9 00000007 00000003 00000000 00000149 00000145 00000000   00000000         00000000         00000058         00000000       00000000            00000000\n" +
		"000003e9 00000000 00000000 00000000 00000000 00000000 00000000   00000000         00000000         00000000         00000000       00000000            00000000\n"
	if n, err := parseCount(stat); n != 1001 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	if n, err := parseCount("entries\n1f 0"); n != 31 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	for _, bad := range []string{"", "entries\n", "entries\nxyz 1\n", "ip 1\n1 1\n"} {
		if n, err := parseCount(bad); err == nil {
			t.Errorf("%q is taken for %d", bad, n)
		}
	}
}
