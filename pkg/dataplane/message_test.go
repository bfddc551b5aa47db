package dataplane

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/mdlayher/netlink"
	rtnl "github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/seccomp"
)

// attributes appends attributes to a header of some bytes.
func attributes(header []byte, attrs ...netlink.Attribute) []byte {
	for _, a := range attrs {
		header = appendAttribute(header, a.Type, a.Data)
	}
	return header
}

func native(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

// The number of the ruleset is in an attribute of 4 bytes, in network order.
func TestGenerationOfAMessage(t *testing.T) {
	good := netlink.Attribute{Type: unix.NFTA_GEN_ID, Data: []byte{0, 0, 1, 2}}
	for name, c := range map[string]struct {
		message []byte
		want    uint32
	}{
		"whole":             {attributes(make([]byte, 4), good), 0x102},
		"header alone":      {make([]byte, 4), 0},
		"too short":         {make([]byte, 3), 0},
		"another attribute": {attributes(make([]byte, 4), netlink.Attribute{Type: unix.NFTA_GEN_PROC_PID, Data: good.Data}), 0},
		"a short attribute": {attributes(make([]byte, 4), netlink.Attribute{Type: unix.NFTA_GEN_ID, Data: good.Data[:3]}), 0},
		"a long attribute":  {attributes(make([]byte, 4), netlink.Attribute{Type: unix.NFTA_GEN_ID, Data: make([]byte, 8)}), 0},
		"an empty one":      {attributes(make([]byte, 4), netlink.Attribute{Type: unix.NFTA_GEN_ID}), 0},
	} {
		if got := parseGeneration(c.message); got != c.want {
			t.Errorf("%s: %#x, want %#x", name, got, c.want)
		}
	}
}

// A read between two looks at the generation is repeated if that changed, and its error is
// returned; so is one of a look.
func TestReadBetweenGenerations(t *testing.T) {
	before, after, read := errors.New("before"), errors.New("after"), errors.New("read")
	for name, c := range map[string]struct {
		looks []error
		read  error
		want  error
		reads int
	}{
		"all well":                    {[]error{nil, nil}, nil, nil, 1},
		"a read that fails":           {[]error{nil, nil}, read, read, 1},
		"the first look fails":        {[]error{before}, nil, before, 0},
		"the second look fails":       {[]error{nil, after}, nil, after, 1},
		"the look is worse than read": {[]error{nil, after}, read, after, 1},
	} {
		looks, reads := 0, 0
		err := whole(func() (uint32, error) { looks++; return 7, c.looks[looks-1] }, func() error { reads++; return c.read })
		if !errors.Is(err, c.want) || (err != nil) != (c.want != nil) || reads != c.reads || looks != len(c.looks) {
			t.Errorf("%s: %v after %d looks and %d reads", name, err, looks, reads)
		}
	}
	n := 0
	err := whole(func() (uint32, error) { n++; return uint32(n), nil }, func() error { return nil })
	if !errors.Is(err, rtnl.ErrDumpInterrupted) || n != 20 {
		t.Errorf("a ruleset that is never the same: %v after %d looks", err, n)
	}
}

// Each transaction raises the generation by one. Refusals are reported.
func TestGenerationOfTheKernel(t *testing.T) {
	m := newMachine(t)
	before, err := m.generation()
	m.must(err)
	m.settle(nodes(2))
	after, err := m.generation()
	m.must(err)
	if after <= before || before == 0 {
		t.Errorf("%d became %d", before, after)
	}
	r := seccomp.NewRefuser(t)
	r.Requests(unix.ENOMEM, nftGetGeneration)
	got, err := m.generation()
	r.Nothing()
	const want = "asking for the ruleset's generation: asking the kernel: cannot allocate memory"
	if got != 0 || !errors.Is(err, unix.ENOMEM) || err.Error() != want {
		t.Errorf("got %d, %v", got, err)
	}
}

// An address of a container is one of the device and namespace that was asked for: the nearer one,
// where a link is point-to-point.
func TestAddressOfAMessage(t *testing.T) {
	const namespace, device = 7, 3
	near, far := netip.MustParseAddr("10.128.0.2"), netip.MustParseAddr("10.128.0.3")
	header := func(family byte, device uint32) []byte { return append([]byte{family, 0, 0, 0}, native(device)...) }
	of := netlink.Attribute{Type: unix.IFA_TARGET_NETNSID, Data: native(namespace)}
	local := netlink.Attribute{Type: unix.IFA_LOCAL, Data: near.AsSlice()}
	address := netlink.Attribute{Type: unix.IFA_ADDRESS, Data: far.AsSlice()}
	for name, c := range map[string]struct {
		kind    uint16
		message []byte
		device  int
		want    netip.Addr
		ok      bool
	}{
		"one":                       {unix.RTM_NEWADDR, attributes(header(unix.AF_INET, device), of, address), device, far, true},
		"point-to-point":            {unix.RTM_NEWADDR, attributes(header(unix.AF_INET, device), of, address, local), device, near, true},
		"point-to-point, reversed":  {unix.RTM_NEWADDR, attributes(header(unix.AF_INET, device), local, address, of), device, near, true},
		"of any device":             {unix.RTM_NEWADDR, attributes(header(unix.AF_INET, device), of, address), 0, far, true},
		"of another device":         {unix.RTM_NEWADDR, attributes(header(unix.AF_INET, 4), of, address), device, netip.Addr{}, false},
		"of another namespace":      {unix.RTM_NEWADDR, attributes(header(unix.AF_INET, device), netlink.Attribute{Type: of.Type, Data: native(8)}, address), device, far, false},
		"of this namespace":         {unix.RTM_NEWADDR, attributes(header(unix.AF_INET, device), address), device, far, false},
		"of another family":         {unix.RTM_NEWADDR, attributes(header(unix.AF_INET6, device), of, address), device, netip.Addr{}, false},
		"deleted":                   {unix.RTM_DELADDR, attributes(header(unix.AF_INET, device), of, address), device, netip.Addr{}, false},
		"too short":                 {unix.RTM_NEWADDR, header(unix.AF_INET, device)[:unix.SizeofIfAddrmsg-1], 0, netip.Addr{}, false},
		"with nothing":              {unix.RTM_NEWADDR, header(unix.AF_INET, device), device, netip.Addr{}, false},
		"with a broken attribute":   {unix.RTM_NEWADDR, append(header(unix.AF_INET, device), 3, 0, 1, 0), device, netip.Addr{}, false},
		"with a broken number":      {unix.RTM_NEWADDR, attributes(header(unix.AF_INET, device), netlink.Attribute{Type: of.Type, Data: []byte{7}}, address), device, netip.Addr{}, false},
		"with a broken one at last": {unix.RTM_NEWADDR, append(attributes(header(unix.AF_INET, device), of, address), 3, 0, 1, 0), device, netip.Addr{}, false},
	} {
		if got, ok := parsePeerAddr(c.kind, c.message, unix.AF_INET, namespace, c.device); ok != c.ok || ok && got != c.want {
			t.Errorf("%s: %v, %t", name, got, ok)
		}
	}
}

// Of a flow's two tuples the addresses count. Without both the flow is none.
func TestFlowOfAMessage(t *testing.T) {
	addr := netip.MustParseAddr
	tuple := func(src, dst string) []byte {
		kinds := []uint16{nl.CTA_IP_V4_SRC, nl.CTA_IP_V4_DST}
		if addr(src).Is6() {
			kinds = []uint16{nl.CTA_IP_V6_SRC, nl.CTA_IP_V6_DST}
		}
		ip := attributes(nil, netlink.Attribute{Type: kinds[0], Data: addr(src).AsSlice()}, netlink.Attribute{Type: kinds[1], Data: addr(dst).AsSlice()})
		proto := attributes(nil, netlink.Attribute{Type: 1, Data: ip[8:12]}, netlink.Attribute{Type: 2, Data: ip[8:12]})
		return attributes(nil, netlink.Attribute{Type: nl.CTA_TUPLE_IP, Data: ip}, netlink.Attribute{Type: 2, Data: proto})
	}
	message := func(orig, reply []byte) []byte {
		b := make([]byte, 4)
		if orig != nil {
			b = attributes(b, netlink.Attribute{Type: nl.CTA_TUPLE_ORIG, Data: orig})
		}
		if reply != nil {
			b = attributes(b, netlink.Attribute{Type: nl.CTA_TUPLE_REPLY, Data: reply})
		}
		return attributes(b, netlink.Attribute{Type: 3, Data: native(8)})
	}
	pod, peer, node := "10.128.0.2", "10.128.2.5", "192.168.1.11"
	good := message(tuple(pod, peer), tuple(peer, node))
	for name, c := range map[string]struct {
		message []byte
		want    flow
		ok      bool
		masked  bool
	}{
		"masqueraded": {good, flow{addr(pod), addr(peer), addr(peer), addr(node)}, true, true},
		"IPv6":        {message(tuple("fd01::2", "fd01:2::5"), tuple("fd01:2::5", "fd00::11")), flow{addr("fd01::2"), addr("fd01:2::5"), addr("fd01:2::5"), addr("fd00::11")}, true, true},
		"plain":       {message(tuple(pod, peer), tuple(peer, pod)), flow{addr(pod), addr(peer), addr(peer), addr(pod)}, true, false},
		"a Service":   {message(tuple(pod, "10.96.0.1"), tuple(peer, node)), flow{addr(pod), addr("10.96.0.1"), addr(peer), addr(node)}, true, false},
		"no reply":    {message(tuple(pod, peer), nil), flow{}, false, false},
		"no original": {message(nil, tuple(peer, node)), flow{}, false, false},
		"broken":      {append(slices.Clone(good), 3, 0, 1, 0), flow{}, false, false},
	} {
		f, ok := parseFlow(c.message)
		if ok != c.ok || ok && (f != c.want || f.masqueraded() != c.masked) {
			t.Errorf("%s: %+v, %t", name, f, ok)
		}
	}
}

// The kernel itself learns a neighbor by asking for it, and an entry of any other origin is not
// learned.
func TestLearnedNeighbors(t *testing.T) {
	good := neighbor{state: unix.NUD_STALE}
	for name, c := range map[string]struct {
		change func(*neighbor)
		want   bool
	}{
		"stale":              {func(*neighbor) {}, true},
		"reachable":          {func(n *neighbor) { n.state = unix.NUD_REACHABLE }, true},
		"used by a router":   {func(n *neighbor) { n.flags = unix.NTF_ROUTER }, true},
		"permanent":          {func(n *neighbor) { n.state = unix.NUD_PERMANENT }, false},
		"not found":          {func(n *neighbor) { n.state = unix.NUD_FAILED }, false},
		"of another program": {func(n *neighbor) { n.flags = unix.NTF_EXT_LEARNED }, false},
		"of a proxy":         {func(n *neighbor) { n.flags = unix.NTF_PROXY }, false},
	} {
		n := good
		if c.change(&n); n.learned() != c.want {
			t.Errorf("%s: %t", name, !c.want)
		}
	}
}

// Entries of another device or family, with which a kernel may answer, are left out.
func TestNeighborsOfOneDeviceAndFamily(t *testing.T) {
	m := newMachine(t)
	index := m.eth0.Attrs().Index
	given := &rtnl.Neigh{LinkIndex: index, IP: net.ParseIP("192.168.1.14"), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 7}, State: unix.NUD_PERMANENT}
	m.must(m.nl.NeighSet(given))
	if got, err := m.neighbors(unix.AF_INET, unix.NDA_IFINDEX, index); err != nil || len(got) != 1 || got[0].mac != string(given.HardwareAddr) || got[0].learned() {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err := m.neighbors(unix.AF_INET, unix.NDA_IFINDEX, index+1000); err != nil || len(got) > 0 {
		t.Errorf("of another device: %+v, %v", got, err)
	}
	if got, err := m.neighbors(unix.AF_X25, unix.NDA_IFINDEX, index); err != nil || len(got) > 0 {
		t.Errorf("of a family that the kernel lacks: %+v, %v", got, err)
	}
}

// A message that a link goes is of a port that has left the bridge if it was in that; while links
// are not known, it may be.
func TestPortThatLeaves(t *testing.T) {
	k := &Kernel{cfg: Config{Bridge: topology.Bridge}}
	message := func(kind uint16, master uint32) netlink.Message {
		data := make([]byte, unix.SizeofIfInfomsg)
		return netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(kind)}, Data: appendAttribute(data, unix.IFLA_MASTER, native(master))}
	}
	if !k.leaves(message(unix.RTM_DELLINK, 4)) || k.leaves(message(unix.RTM_NEWLINK, 4)) {
		t.Error("links are not known")
	}
	k.links = facts()
	for master, want := range map[uint32]bool{2: true, 4: false, 99: false} {
		if k.leaves(message(unix.RTM_DELLINK, master)) != want || k.leaves(message(unix.RTM_NEWLINK, master)) {
			t.Errorf("of master %d: %t", master, !want)
		}
	}
}

// Addresses of which a part is refused come with the error.
func TestRefusedAddressesOfAPeerAreReported(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	m.addPod("vethpod", "10.128.0.2/24", "fd01::2/64")
	id, want := m.link("vethpod").Attrs().NetNsID, m.families()
	if addrs, err := addrsIn(m.rtnetlink, id, 0); len(addrs) != want || err != nil {
		t.Errorf("got %v, %v", addrs, err)
	}
	r := seccomp.NewRefuser(t)
	for n := range 2 {
		end := r.Nth(unix.ENOMEM, n+1)
		addrs, err := addrsIn(m.rtnetlink, id, 0)
		if end(); len(addrs) > 1 || !errors.Is(err, unix.ENOMEM) {
			t.Errorf("without request %d: %v, %v", n+1, addrs, err)
		}
	}
}
