package inspect

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/seccomp"
)

// An xtSpec is a rule of iptables: prefixes, devices ("eth+" matches a prefix of the name), and the
// flags of struct ipt_ip.
type xtSpec struct {
	from, to, in, out string
	protocol          uint16
	flags, inverted   byte
	matches           [][]byte
	target            string // a verdict, a user-defined chain, or the name of a target; empty: none
}

// struct ipt_ip, ipt_entry, ip6t_ip6 and ip6t_entry (linux/netfilter_ipv4/ip_tables.h,
// linux/netfilter_ipv6/ip6_tables.h).
type (
	xtDevices struct{ In, Out, InMask, OutMask [unix.IFNAMSIZ]byte }
	xtEntry4  struct {
		Src, Dst, SrcMask, DstMask [4]byte
		Devices                    xtDevices
		Protocol                   uint16
		Flags, Inverted            byte
		NFCache                    uint32
		Target, Next               uint16
		ComeFrom                   uint32
		Counters                   [2]uint64
	}
	xtEntry6 struct {
		Src, Dst, SrcMask, DstMask [16]byte
		Devices                    xtDevices
		Protocol                   uint16
		TOS, Flags, Inverted       byte
		_                          [3]byte
		NFCache                    uint32
		Target, Next               uint16
		ComeFrom                   uint32
		_                          uint32
		Counters                   [2]uint64
	}
)

func (s xtSpec) devices() (d xtDevices) {
	set := func(name, mask []byte, dev string) {
		n := copy(name, dev)
		switch {
		case strings.HasSuffix(dev, "+"):
			n--
		case dev != "":
			n++ // the terminating zero as well
		}
		copy(mask, bytes.Repeat([]byte{0xff}, n))
	}
	set(d.In[:], d.InMask[:], s.in)
	set(d.Out[:], d.OutMask[:], s.out)
	return d
}

// xtPart is struct xt_entry_match or xt_entry_target: its size, its name, its revision and its
// data.
func xtPart(name string, revision byte, info []byte) []byte {
	b := make([]byte, 32+(len(info)+7)&^7)
	binary.NativeEndian.PutUint16(b, uint16(len(b)))
	copy(b[2:], name)
	b[31] = revision
	copy(b[32:], info)
	return b
}

// encode returns the rule for an offset of a table, with the offsets of chains.
func (s xtSpec) encode(l legacy, at int, chains map[string]int) []byte {
	var target []byte
	number := func(v int) []byte { return xtPart("", 0, binary.NativeEndian.AppendUint32(nil, uint32(int32(v)))) }
	verdicts := map[string]int{"DROP": -1, "ACCEPT": -2, "QUEUE": -4, "RETURN": -5}
	place, isChain := chains[s.target]
	name, isHead := strings.CutPrefix(s.target, "ERROR ")
	switch v := verdicts[s.target]; {
	case v != 0:
		target = number(v)
	case isHead:
		target = xtPart("ERROR", 0, append([]byte(name), make([]byte, 32-len(name))...))
	case isChain:
		target = number(place)
	case s.target == "":
		target = number(0) // see below
	default:
		target = xtPart(s.target, 0, make([]byte, 8))
	}
	matches := slices.Concat(s.matches...)
	bits := func(p string, a, mask []byte) {
		if p, err := netip.ParsePrefix(p); err == nil {
			copy(a, p.Addr().AsSlice())
			copy(mask, net.CIDRMask(p.Bits(), len(a)*8))
		}
	}
	var b []byte
	if l.family == "ip" {
		e := xtEntry4{Devices: s.devices(), Protocol: s.protocol, Flags: s.flags, Inverted: s.inverted, Target: uint16(112 + len(matches))}
		e.Next = e.Target + uint16(len(target))
		bits(s.from, e.Src[:], e.SrcMask[:])
		bits(s.to, e.Dst[:], e.DstMask[:])
		b, _ = binary.Append(nil, binary.NativeEndian, e)
	} else {
		e := xtEntry6{Devices: s.devices(), Protocol: s.protocol, Flags: s.flags, Inverted: s.inverted, Target: uint16(168 + len(matches))}
		e.Next = e.Target + uint16(len(target))
		bits(s.from, e.Src[:], e.SrcMask[:])
		bits(s.to, e.Dst[:], e.DstMask[:])
		b, _ = binary.Append(nil, binary.NativeEndian, e)
	}
	b = slices.Concat(b, matches, target)
	if s.target == "" { // the next rule
		binary.NativeEndian.PutUint32(b[len(b)-8:], uint32(at+len(b)))
	}
	return b
}

// xtTable encodes the table filter with rules in FORWARD and user-defined chains, as
// iptables-restore does.
func xtTable(l legacy, policy string, forward []xtSpec, user map[string][]xtSpec) (info xtInfo, table []byte) {
	chains := map[string]int{}
	for range 2 { // the offsets of chains are known the second time
		table, info = nil, xtInfo{ValidHooks: 1<<1 | 1<<2 | 1<<3}
		add := func(s xtSpec) {
			table = append(table, s.encode(l, len(table), chains)...)
			info.Entries++
		}
		for hook := 1; hook <= 3; hook++ { // NF_INET_LOCAL_IN, FORWARD and LOCAL_OUT
			info.HookEntry[hook] = uint32(len(table))
			if hook == 2 {
				for _, s := range forward {
					add(s)
				}
			}
			info.Underflow[hook] = uint32(len(table))
			add(xtSpec{target: map[bool]string{true: policy, false: "ACCEPT"}[hook == 2]})
		}
		for _, name := range []string{"A", "B"} {
			add(xtSpec{target: "ERROR " + name})
			chains[name] = len(table)
			for _, s := range user[name] {
				add(s)
			}
			add(xtSpec{target: "RETURN"})
		}
		add(xtSpec{target: "ERROR ERROR"})
	}
	info.Size = uint32(len(table))
	return info, table
}

// Flags of struct ipt_ip, as iptables sets them for "!", -f and -g. IPv6 has the same except for
// -g.
const (
	invertFrom, invertTo, invertIn, invertOut = 0x08, 0x10, 0x01, 0x02
	invertProtocol, invertFragment            = 0x40, 0x20
	flagFragment, flagGoTo4                   = 0x01, 0x02
	flagGoTo6                                 = 0x04
)

func conntrackState(mask uint16, inverted xt.ConntrackFlags) []byte {
	base := xt.ConntrackMtinfoBase{MatchFlags: uint16(xt.ConntrackState), InvertFlags: uint16(inverted)}
	info, err := xt.Marshal(unix.NFPROTO_IPV6, 3, &xt.ConntrackMtinfo3{ConntrackMtinfo2: xt.ConntrackMtinfo2{ConntrackMtinfoBase: base, StateMask: mask}})
	if err != nil {
		panic(err)
	}
	return xtPart("conntrack", 3, info)
}

var (
	xtComment = xtPart("comment", 0, make([]byte, 256))
	xtMark    = xtPart("mark", 1, make([]byte, 12))
	xtUDP     = xtPart("udp", 0, make([]byte, 12))
	xtTCP     = xtPart("tcp", 0, make([]byte, 12))
)

var ruleCases = []struct {
	want string // of a new packet and an answer, or of the one of IPv6
	s    xtSpec
}{
	{"yes yes", xtSpec{}},
	{"yes no", xtSpec{from: "10.244.1.7/32"}},
	{"no yes", xtSpec{from: "10.244.1.7/32", inverted: invertFrom}},
	{"no no", xtSpec{from: "10.244.1.6/32"}},
	{"yes no", xtSpec{from: "10.244.1.0/24"}},
	{"yes no", xtSpec{to: "10.244.2.0/24"}},
	{"no yes", xtSpec{to: "10.244.2.0/24", inverted: invertTo}},
	{"unknown no", xtSpec{to: "10.244.2.0/25"}},
	{"unknown yes", xtSpec{to: "10.244.2.0/25", inverted: invertTo}},
	{"no unknown", xtSpec{from: "10.244.2.0/25", to: "10.244.1.0/24"}},
	{"yes yes", xtSpec{in: "lo"}},
	{"no no", xtSpec{in: "lo", inverted: invertIn}},
	{"no no", xtSpec{in: "lo0"}},
	{"yes yes", xtSpec{in: "lo0", inverted: invertIn}},
	{"yes yes", xtSpec{in: "l+"}},
	{"yes yes", xtSpec{in: "lo+"}},
	{"no no", xtSpec{in: "eth+"}},
	{"unknown no", xtSpec{out: "eth0"}},
	{"unknown yes", xtSpec{out: "eth0", inverted: invertOut}},
	{"unknown yes", xtSpec{out: "l+"}},
	{"yes yes", xtSpec{protocol: unix.IPPROTO_TCP}},
	{"no no", xtSpec{protocol: unix.IPPROTO_TCP, inverted: invertProtocol}},
	{"no no", xtSpec{protocol: unix.IPPROTO_UDP}},
	{"yes yes", xtSpec{protocol: unix.IPPROTO_UDP, inverted: invertProtocol}},
	{"no no", xtSpec{flags: flagFragment}},
	{"yes yes", xtSpec{flags: flagFragment, inverted: invertFragment}},
	{"yes yes", xtSpec{flags: flagGoTo4}},
	{"yes yes", xtSpec{matches: [][]byte{xtComment}}},
	{"yes no", xtSpec{matches: [][]byte{xtComment, conntrackState(8, 0)}}},
	{"no yes", xtSpec{matches: [][]byte{conntrackState(8, xt.ConntrackState), xtComment}}},
	{"some some", xtSpec{matches: [][]byte{xtTCP}}},
	{"unknown unknown", xtSpec{matches: [][]byte{xtTCP, xtMark, xtComment}}},
	{"no no", xtSpec{matches: [][]byte{xtUDP, xtMark}}},

	{"yes", xtSpec{}},
	{"yes", xtSpec{from: "fd00::7/128"}},
	{"no", xtSpec{from: "fd00::7/128", inverted: invertFrom}},
	{"no", xtSpec{from: "fd00::8/128"}},
	{"yes", xtSpec{to: "fd00:2::/64"}},
	{"unknown", xtSpec{to: "fd00:2::/96"}},
	{"no", xtSpec{to: "fd00:3::/64"}},
	{"yes", xtSpec{in: "lo", out: "eth0"}},
	{"no", xtSpec{in: "lo", out: "eth1"}},
	{"yes", xtSpec{in: "lo", out: "eth1", inverted: invertOut}},
	{"no", xtSpec{in: "eth0", out: "eth0"}},
	{"yes", xtSpec{flags: 1, protocol: unix.IPPROTO_TCP}}, // IP6T_F_PROTO
	{"no", xtSpec{flags: 1, protocol: unix.IPPROTO_ICMPV6}},
	{"yes", xtSpec{matches: [][]byte{conntrackState(8, 0)}}},
}

// Rules match packets as in ip_packet_match and ip6_packet_match.
func TestRulesOfIPTables(t *testing.T) {
	for _, c := range ruleCases {
		l, packets := legacies[0], []Packet{newPacket, answerPacket}
		if !strings.Contains(c.want, " ") {
			l, packets = legacies[1], []Packet{ipv6Packet}
		}
		var got []string
		for _, p := range packets {
			matches, _ := l.rule(c.s.encode(l, 0, nil), 0).match(p)
			got = append(got, truthNames[matches])
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s: %+v: got %s, want %s", l.family, c.s, s, c.want)
		}
	}
}

// Verdicts are those of xt_standard_target, and offsets in the table.
func TestVerdictsOfIPTables(t *testing.T) {
	for i, goTo := range []byte{flagGoTo4, flagGoTo6} {
		l := legacies[i]
		for target, want := range map[string]string{
			"ACCEPT": "yes accept", "DROP": "yes drop", "RETURN": "yes return", "QUEUE": "yes queue", "": "yes", "REJECT": "yes drop",
			"LOG": "yes", "NFQUEUE": "yes queue", "A": "yes jumpat 4096", "C": "yes jumpat 0", "B": "yes gotoat 8192",
		} {
			s := xtSpec{target: target}
			if target == "B" {
				s.flags = goTo
			}
			table := append(make([]byte, 512), s.encode(l, 512, map[string]int{"A": 4096, "B": 8192, "C": 0})...)
			if got := result(l.rule(table, 512).match(Packet{From: netip.MustParsePrefix("::/0")})); l.family == "ip6" && got != want {
				t.Errorf("%s of %s: got %s, want %s", target, l.family, got, want)
			}
			if got := result(yes, l.rule(table, 512).verdict()); got != want {
				t.Errorf("%s of %s: got %s, want %s", target, l.family, got, want)
			}
		}
	}
}

// replace loads a table as iptables-restore does: struct ipt_replace.
func (m *machine) replace(l legacy, info xtInfo, table []byte) {
	m.t.Helper()
	fd, err := unix.Socket(l.socket, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	m.must(err)
	defer unix.Close(fd)
	old := xtInfo{}
	copy(old.Name[:], "filter")
	if err := getsockopt(fd, l.level, getInfo, unsafe.Pointer(&old), binary.Size(old)); err != nil {
		if errors.Is(err, unix.ENOPROTOOPT) || errors.Is(err, unix.ENOENT) {
			m.t.Skipf("the kernel has no tables of iptables: %v", err)
		}
		m.t.Fatal(err)
	}
	counters := make([]uint64, 2*old.Entries)
	header, err := binary.Append(nil, binary.NativeEndian, struct {
		Name                      [32]byte
		ValidHooks, Entries, Size uint32
		Hooks, Underflow          [5]uint32
		OldEntries                uint32
		Counters                  uint64
	}{old.Name, info.ValidHooks, info.Entries, info.Size, info.HookEntry, info.Underflow, old.Entries, uint64(uintptr(unsafe.Pointer(&counters[0])))})
	m.must(err)
	const setReplace = 64 // IPT_SO_SET_REPLACE
	err = unix.SetsockoptString(fd, l.level, setReplace, string(header)+string(table))
	runtime.KeepAlive(counters)
	m.must(err)
}

// forwardTable is a table for both families; address gives the prefix of a number.
func forwardTable(l legacy, policy string, goTo byte, address func(int) string) (xtInfo, []byte) {
	return xtTable(l, policy, []xtSpec{
		{in: "lo", to: address(2), flags: goTo, target: "A"},
		{matches: [][]byte{xtComment}},
		{target: "B"},
		{from: address(9), target: "ACCEPT"},
		{from: address(4), target: "DROP"},
	}, map[string][]xtSpec{
		"A": {{from: address(1), matches: [][]byte{conntrackState(8, 0)}, target: "ACCEPT"}},
		"B": {{from: address(3), inverted: invertFrom, target: "RETURN"}, {to: address(1), matches: [][]byte{conntrackState(2, 0)}, target: "REJECT"}},
	})
}

// The kernel accepts the tables of these tests, and its copy is evaluated like the original.
func TestLegacyForwardChains(t *testing.T) {
	m := newMachine(t)
	i := m.inspector()
	if chains, err := i.LegacyForwardChains(nil); len(chains) != 0 || err != nil {
		t.Errorf("without any table: %v, %v", chains, err)
	}
	families := map[string]func(int) string{
		"ip":  func(n int) string { return fmt.Sprintf("10.244.%d.0/24", n) },
		"ip6": func(n int) string { return fmt.Sprintf("fd00:%d::/64", n) },
	}
	for number, l := range legacies {
		if l.family == "ip6" && !m.ipv6 {
			continue
		}
		address := families[l.family]
		packet := func(from, to int, answer bool) Packet {
			return Packet{In: "lo", From: netip.MustParsePrefix(address(from)), To: netip.MustParsePrefix(address(to)), Reply: answer}
		}
		packets := []Packet{packet(1, 2, false), packet(9, 2, false), packet(9, 1, false), packet(3, 1, true), packet(3, 1, false), packet(4, 1, false)}
		for policy, end := range map[string]string{"DROP": "dropped by its policy", "ACCEPT": "accepted"} {
			info, table := forwardTable(l, policy, []byte{flagGoTo4, flagGoTo6}[number], address)
			m.replace(l, info, table)
			descriptors := m.descriptors()
			chains, err := i.LegacyForwardChains(packets)
			m.must(err)
			if n := m.descriptors(); n != descriptors {
				t.Errorf("%d file descriptors became %d", descriptors, n)
			}
			got := []string{chains[number].String()}
			for _, f := range chains[number].Outcomes {
				got = append(got, f.text())
			}
			want := []string{
				l.family + "tables-legacy: chain FORWARD (policy " + policy + ") with 5 rules",
				"accepted", end, "accepted", "dropped by rule 2 of B", end, "dropped by rule 5 of FORWARD",
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
			if parsed := l.parse(info, table, packets); !reflect.DeepEqual(parsed, chains[number]) {
				t.Errorf("what was written is %+v, and what was read %+v", parsed, chains[number])
			}
		}
	}
}

// A table that can't be read is an error, not an empty table.
func TestRefusedLegacyChainsAreReported(t *testing.T) {
	m := newMachine(t)
	i := m.inspector()
	info, table := xtTable(legacies[0], "ACCEPT", nil, nil)
	m.replace(legacies[0], info, table)
	fails := func(errno unix.Errno, prefix string) {
		t.Helper()
		if chains, err := i.LegacyForwardChains(nil); len(chains) != 0 || !errors.Is(err, errno) || !strings.HasPrefix(err.Error(), prefix) {
			t.Errorf("got %v, %v, want %q, %v", chains, err, prefix, errno)
		}
	}
	m.must(unix.Setfsgid(65534)) // a user without access to the list of tables
	m.must(unix.Setfsuid(65534))
	fails(unix.EACCES, "reading the tables of iptables: ")
	m.must(unix.Setfsuid(0))
	seccomp.RefuseCalls(t, unix.EAGAIN, unix.SYS_GETSOCKOPT, map[int]uint32{2: getEntries})
	fails(unix.EAGAIN, "reading the table filter of iptables: ")
	seccomp.RefuseCalls(t, unix.EPERM, unix.SYS_GETSOCKOPT, map[int]uint32{2: getInfo})
	fails(unix.EPERM, "reading the table filter of iptables: ")
	seccomp.RefuseSockets(t, unix.ENFILE, unix.AF_INET)
	fails(unix.ENFILE, "reading the table filter of iptables: ")
}
