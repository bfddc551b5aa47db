package dataplane

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// The packets of these tests: of a pod to pods of a peer, by devices of which one is known, the answer, and one of IPv6.
var (
	newPacket    = Packet{In: "lo", From: netip.MustParsePrefix("10.244.1.7/32"), To: netip.MustParsePrefix("10.244.2.0/24")}
	answerPacket = Packet{In: "lo", From: newPacket.To, To: newPacket.From, Answer: true}
	ipv6Packet   = Packet{In: "lo", Out: "eth0", From: netip.MustParsePrefix("fd00::7/128"), To: netip.MustParsePrefix("fd00:2::/64")}
)

var truths = map[truth]string{no: "no", yes: "yes", some: "some", unknown: "unknown"}

// judged is what a rule does with a packet: how it fits, and its verdict and chain, unless that is to go on.
func judged(fits truth, v expr.Verdict) string {
	text := map[expr.VerdictKind]string{
		expr.VerdictAccept: " accept", expr.VerdictDrop: " drop", expr.VerdictJump: " jump", expr.VerdictGoto: " goto",
		expr.VerdictReturn: " return", expr.VerdictQueue: " queue",
	}[v.Kind]
	if fits == no {
		return "no"
	}
	return truths[fits] + text + v.Chain
}

// field, ip and meta load register 1; the others read it.
func field(base expr.PayloadBase, offset, n uint32) expr.Any {
	return &expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: n}
}
func ip(offset, n uint32) expr.Any   { return field(expr.PayloadBaseNetworkHeader, offset, n) }
func meta(key expr.MetaKey) expr.Any { return &expr.Meta{Key: key, Register: 1} }
func ct(key expr.CtKey) expr.Any     { return &expr.Ct{Key: key, Register: 1} }
func compare(op expr.CmpOp, data ...byte) expr.Any {
	return &expr.Cmp{Op: op, Register: 1, Data: data}
}
func is(data ...byte) expr.Any { return compare(expr.CmpOpEq, data...) }
func between(op expr.CmpOp, from, to []byte) expr.Any {
	return &expr.Range{Op: op, Register: 1, FromData: from, ToData: to}
}
func bitwise(mask, xor []byte) expr.Any {
	return &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(len(mask)), Mask: mask, Xor: xor}
}

// Where the fields of the headers are: RFC 791, RFC 8200.
const (
	saddr, daddr = 12, 16
	frag, proto  = 6, 9
	saddr6       = 8
	daddr6       = 24
	nextHeader   = 6
)

// What nft writes is judged as the nft_*_eval of net/netfilter do, as far as the packet is known.
func TestExpressions(t *testing.T) {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, "lo")
	lo6 := netip.MustParseAddr("fd00::7").AsSlice()
	for _, c := range []struct {
		want string
		p    Packet
		do   []expr.Any
	}{
		{"yes", newPacket, nil},
		{"yes", newPacket, []expr.Any{&expr.Counter{}, &expr.Log{}, &expr.Notrack{}}},
		{"unknown", newPacket, []expr.Any{&expr.Fib{}}},
		{"some", newPacket, []expr.Any{&expr.Limit{}}},
		{"some", newPacket, []expr.Any{&expr.Quota{}}},
		{"some", newPacket, []expr.Any{&expr.Connlimit{}}},
		{"some", newPacket, []expr.Any{&expr.Dynset{}}},
		{"unknown", newPacket, []expr.Any{&expr.Limit{}, &expr.Fib{}}},
		{"yes drop", newPacket, []expr.Any{&expr.Reject{}}},
		{"yes queue", newPacket, []expr.Any{&expr.Queue{}}},
		{"some accept", newPacket, []expr.Any{&expr.Limit{}, &expr.Verdict{Kind: expr.VerdictAccept}, &expr.Fib{}}},
		{"yes jumpa", newPacket, []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: "a"}}},
		// Addresses, protocol and place in the header of IP.
		{"yes", newPacket, []expr.Any{ip(saddr, 4), is(10, 244, 1, 7)}},
		{"no", newPacket, []expr.Any{ip(saddr, 4), is(10, 244, 1, 8)}},
		{"yes", newPacket, []expr.Any{ip(daddr, 3), is(10, 244, 2)}},
		{"unknown", newPacket, []expr.Any{ip(daddr, 4), is(10, 244, 2, 9)}},
		{"no", newPacket, []expr.Any{ip(daddr, 4), is(10, 244, 3, 9)}},
		{"unknown", newPacket, []expr.Any{ip(saddr, 8), is(10, 244, 1, 7, 10, 244, 2, 9)}},
		{"no", answerPacket, []expr.Any{ip(saddr, 8), is(10, 244, 2, 9, 10, 244, 1, 8)}}, // though some lie on either side
		{"yes", newPacket, []expr.Any{ip(proto, 1), is(unix.IPPROTO_TCP)}},
		{"unknown", newPacket, []expr.Any{ip(proto-1, 1), is(64)}},
		{"unknown", newPacket, []expr.Any{ip(proto+1, 1), is(64)}},
		{"yes", newPacket, []expr.Any{ip(frag, 2), bitwise([]byte{0x3f, 0xff}, []byte{0, 0}), is(0, 0)}},
		{"unknown", newPacket, []expr.Any{ip(frag, 2), is(0, 0)}}, // DF
		{"unknown", newPacket, []expr.Any{ip(frag-1, 1), is(0)}},
		{"unknown", newPacket, []expr.Any{ip(frag+2, 1), is(0)}},
		{"yes", ipv6Packet, []expr.Any{ip(saddr6, 16), is(lo6...)}},
		{"no", ipv6Packet, []expr.Any{ip(daddr6, 16), is(lo6...)}},
		{"yes", ipv6Packet, []expr.Any{ip(daddr6, 8), is(0xfd, 0, 0, 2, 0, 0, 0, 0)}},
		{"unknown", ipv6Packet, []expr.Any{ip(39, 1), is(1)}},
		{"unknown", ipv6Packet, []expr.Any{ip(40, 1), is(1)}}, // beyond the header
		{"unknown", newPacket, []expr.Any{ip(20, 1), is(1)}},
		{"yes", ipv6Packet, []expr.Any{ip(nextHeader, 1), is(unix.IPPROTO_TCP)}},
		{"unknown", ipv6Packet, []expr.Any{ip(nextHeader+1, 1), is(0xff)}},
		// Ports differ from packet to packet, MAC addresses are not known.
		{"some", newPacket, []expr.Any{field(expr.PayloadBaseTransportHeader, 2, 2), is(0, 9)}},
		{"some", newPacket, []expr.Any{field(expr.PayloadBaseTransportHeader, 2, 2), bitwise([]byte{0xff, 0}, []byte{0, 0}), is(9, 0)}},
		{"some", newPacket, []expr.Any{field(expr.PayloadBaseTransportHeader, 2, 2), compare(expr.CmpOpLt, 4, 0)}},
		{"yes", newPacket, []expr.Any{field(expr.PayloadBaseTransportHeader, 2, 2), compare(expr.CmpOpGte, 0, 0)}},
		{"unknown", newPacket, []expr.Any{field(expr.PayloadBaseLLHeader, 6, 4), is(0, 0, 0, 0)}},
		// What is set is not asked for, and leaves the register.
		{"yes", newPacket, []expr.Any{&expr.Immediate{Register: 1, Data: []byte{7}}, &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1}, is(7)}},
		{"yes", newPacket, []expr.Any{&expr.Immediate{Register: 1, Data: []byte{7}}, &expr.Ct{Key: expr.CtKeyMARK, SourceRegister: true, Register: 1}, is(7)}},
		{"yes", newPacket, []expr.Any{&expr.Immediate{Register: 1, Data: []byte{7}}, &expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: 1}, is(7)}},
		{"unknown", newPacket, []expr.Any{ip(saddr, 4), is(10, 244, 1, 7), is(10, 244, 1, 7)}}, // of which the second load is one that the library leaves out
		// Masks.
		{"yes", newPacket, []expr.Any{ip(saddr, 4), bitwise([]byte{255, 248, 0, 0}, []byte{0, 0, 0, 0}), is(10, 240, 0, 0)}},
		{"yes", newPacket, []expr.Any{ip(daddr, 4), bitwise([]byte{255, 255, 255, 0}, []byte{1, 0, 0, 0}), is(11, 244, 2, 0)}},
		{"unknown", newPacket, []expr.Any{ip(saddr, 4), &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4}, is(0, 0, 0, 0)}}, // a shift
		{"unknown", newPacket, []expr.Any{meta(expr.MetaKeyMARK), bitwise([]byte{0, 0, 0, 1}, []byte{0, 0, 0, 0}), is(0, 0, 0, 0)}},
		// Ranges, of which both ends are in them.
		{"yes", newPacket, []expr.Any{ip(saddr+2, 2), compare(expr.CmpOpGte, 1, 7), compare(expr.CmpOpLte, 1, 7)}},
		{"no", newPacket, []expr.Any{ip(saddr+2, 2), compare(expr.CmpOpGte, 1, 8)}},
		{"no", newPacket, []expr.Any{ip(saddr+2, 2), compare(expr.CmpOpLte, 1, 6)}},
		{"no", newPacket, []expr.Any{ip(saddr+2, 2), compare(expr.CmpOpLt, 1, 7)}},
		{"yes", newPacket, []expr.Any{ip(saddr+2, 2), compare(expr.CmpOpLt, 1, 8)}},
		{"no", newPacket, []expr.Any{ip(saddr+2, 2), compare(expr.CmpOpGt, 1, 7)}},
		{"yes", newPacket, []expr.Any{ip(saddr+2, 2), compare(expr.CmpOpGt, 0, 255)}},
		{"unknown", newPacket, []expr.Any{ip(daddr+2, 2), compare(expr.CmpOpLt, 2, 1)}},
		{"yes", newPacket, []expr.Any{ip(daddr+2, 2), compare(expr.CmpOpLte, 2, 255)}},
		{"yes", newPacket, []expr.Any{ip(daddr+2, 2), compare(expr.CmpOpGte, 2, 0)}},
		{"no", newPacket, []expr.Any{ip(daddr+2, 2), compare(expr.CmpOpGte, 3, 0)}},
		{"yes", newPacket, []expr.Any{ip(daddr+2, 2), between(expr.CmpOpEq, []byte{2, 0}, []byte{2, 255})}},
		{"unknown", newPacket, []expr.Any{ip(daddr+2, 2), between(expr.CmpOpEq, []byte{2, 0}, []byte{2, 254})}},
		{"no", newPacket, []expr.Any{ip(daddr+2, 2), between(expr.CmpOpNeq, []byte{2, 0}, []byte{2, 255})}},
		{"yes", newPacket, []expr.Any{ip(daddr+2, 2), between(expr.CmpOpNeq, []byte{3, 0}, []byte{4, 0})}},
		{"unknown", newPacket, []expr.Any{meta(expr.MetaKeyMARK), between(expr.CmpOpEq, []byte{0, 0, 0, 1}, []byte{0, 0, 0, 2})}},
		{"no", newPacket, []expr.Any{ip(saddr, 4), compare(expr.CmpOpNeq, 10, 244, 1, 7)}},
		{"yes", newPacket, []expr.Any{ip(saddr, 4), compare(expr.CmpOpNeq, 10, 244, 1, 8)}},
		{"unknown", newPacket, []expr.Any{ip(daddr, 4), compare(expr.CmpOpNeq, 10, 244, 2, 8)}},
		// Devices: one is known.
		{"yes", newPacket, []expr.Any{meta(expr.MetaKeyIIFNAME), is(name...)}},
		{"yes", newPacket, []expr.Any{meta(expr.MetaKeyIIFNAME), is('l')}},
		{"no", newPacket, []expr.Any{meta(expr.MetaKeyIIFNAME), is('e')}},
		{"unknown", newPacket, []expr.Any{meta(expr.MetaKeyOIFNAME), is('l')}},
		{"no", ipv6Packet, []expr.Any{meta(expr.MetaKeyOIFNAME), is('l')}},
		{"yes", newPacket, []expr.Any{meta(expr.MetaKeyIIF), is(1, 0, 0, 0)}}, // in each network namespace
		{"no", newPacket, []expr.Any{meta(expr.MetaKeyIIF), is(2, 0, 0, 0)}},
		{"unknown", newPacket, []expr.Any{meta(expr.MetaKeyOIF), is(1, 0, 0, 0)}},
		{"unknown", newPacket, []expr.Any{meta(expr.MetaKeyMARK), is(1, 0, 0, 0)}},
		// Protocols: of IP in the order of the host, of Ethernet in that of the network.
		{"yes", newPacket, []expr.Any{meta(expr.MetaKeyL4PROTO), is(unix.IPPROTO_TCP)}},
		{"yes", newPacket, []expr.Any{meta(expr.MetaKeyNFPROTO), is(unix.NFPROTO_IPV4)}},
		{"yes", ipv6Packet, []expr.Any{meta(expr.MetaKeyNFPROTO), is(unix.NFPROTO_IPV6)}},
		{"yes", newPacket, []expr.Any{meta(expr.MetaKeyPROTOCOL), is(0x08, 0x00)}},
		{"yes", ipv6Packet, []expr.Any{meta(expr.MetaKeyPROTOCOL), is(0x86, 0xdd)}},
		// Connections (linux/netfilter/nf_conntrack_common.h).
		{"yes", newPacket, []expr.Any{ct(expr.CtKeySTATE), is(8, 0, 0, 0)}},
		{"yes", answerPacket, []expr.Any{ct(expr.CtKeySTATE), is(2, 0, 0, 0)}},
		{"yes", newPacket, []expr.Any{ct(expr.CtKeyDIRECTION), is(0)}},
		{"yes", answerPacket, []expr.Any{ct(expr.CtKeyDIRECTION), is(1)}},
		{"unknown", newPacket, []expr.Any{ct(expr.CtKeySTATUS), is(1, 0, 0, 0)}},
	} {
		got := judged((&nftMachine{c.p, nil, map[uint32]bits{}}).run(c.do))
		if got != c.want {
			text := ""
			for _, e := range c.do {
				text += fmt.Sprintf(" %+v", e)
			}
			t.Errorf("%v: got %s, want %s:%s", c.p, got, c.want, text)
		}
	}
}

// A register that a shift was to write, of which the library does not read how far, has not what was there before.
func TestShiftIntoAnotherRegister(t *testing.T) {
	shift := &expr.Bitwise{SourceRegister: 1, DestRegister: 2, Len: 4}
	got := judged((&nftMachine{newPacket, nil, map[uint32]bits{}}).run([]expr.Any{
		&expr.Immediate{Register: 2, Data: []byte{9, 9, 9, 9}}, ip(saddr, 4), shift, &expr.Cmp{Register: 2, Data: []byte{9, 9, 9, 9}},
	}))
	if got != "unknown" {
		t.Error(got)
	}
}

// jumpTo is an element's verdict as the kernel sends it: attributes NFTA_VERDICT_CODE and NFTA_VERDICT_CHAIN.
func jumpTo(chain string) []byte {
	b := []byte{8, 0, 0, 1, 0xff, 0xff, 0xff, 0xfd, byte(5 + len(chain)), 0, 0, 2}
	return append(append(b, chain...), 0)
}

// Sets and maps are searched as nft_lookup_eval does.
func TestLookups(t *testing.T) {
	acceptVal := []byte{8, 0, 0, 1, 0, 0, 0, 1}
	starts := func(key ...byte) nftables.SetElement { return nftables.SetElement{Key: key} }
	ends := func(key ...byte) nftables.SetElement { return nftables.SetElement{Key: key, IntervalEnd: true} }
	to := func(v []byte, key ...byte) nftables.SetElement { return nftables.SetElement{Key: key, Val: v} }
	sets := map[string]elementSet{
		"none":    {},
		"unknown": {elements: make([]nftables.SetElement, 1)},
		"single":  {elements: []nftables.SetElement{starts(1, 6), starts(1, 7), starts(2, 9)}},
		"peer":    {elements: []nftables.SetElement{starts(2, 9)}},
		// 1.0 to 1.6 and 2.0 to 2.255, and the end of one is where another begins
		"intervals": {true, []nftables.SetElement{starts(1, 0), ends(1, 7), starts(2, 0), ends(2, 128), starts(2, 128), ends(3, 0)}},
		"halves":    {true, []nftables.SetElement{starts(1, 7), starts(2, 0), ends(2, 0), ends(2, 128)}},
		"whole":     {true, []nftables.SetElement{starts(2, 0), ends(2, 0), ends(3, 0)}},
		"others":    {true, []nftables.SetElement{starts(1, 0), ends(1, 7), starts(3, 0)}},
		"rest":      {true, []nftables.SetElement{starts(1, 7)}},
		"map":       {elements: []nftables.SetElement{to(jumpTo("a"), 1, 7), to(acceptVal, 2, 1)}},
		"range":     {true, []nftables.SetElement{{Key: []byte{1, 0}, KeyEnd: []byte{1, 7}}, {Key: []byte{2, 0}, KeyEnd: []byte{2, 1}}}},
		"pairs":     {elements: []nftables.SetElement{starts(1, 7, 0, 80), starts(1, 8, 0, 80)}},
		"pairs map": {elements: []nftables.SetElement{to(acceptVal, 1, 7, 0, 80)}},
		"data map":  {elements: []nftables.SetElement{to([]byte{0, 0, 0, 1}, 1, 7), to(jumpTo("a"), 1, 8)}},
	}
	source, peer, mark := ip(saddr+2, 2), ip(daddr+2, 2), meta(expr.MetaKeyMARK)
	toVerdict := expr.Lookup{SourceRegister: 1, IsDestRegSet: true}
	toData := expr.Lookup{SourceRegister: 1, IsDestRegSet: true, DestRegister: 1}
	in, notIn := expr.Lookup{SourceRegister: 1}, expr.Lookup{SourceRegister: 1, Invert: true}
	for _, c := range []struct {
		want string
		load expr.Any
		e    expr.Lookup
		set  string
	}{
		{"no", source, in, "none"},
		{"yes", source, notIn, "none"},
		{"unknown", source, in, "unknown"},
		{"unknown", mark, in, "unknown"},
		{"unknown", source, notIn, "unknown"},
		{"unknown queue", source, toVerdict, "unknown"},
		{"yes", source, in, "single"},
		{"no", source, notIn, "single"},
		{"unknown", peer, in, "single"},
		{"unknown", mark, in, "single"},
		{"no", source, in, "peer"},
		{"no", source, in, "intervals"},
		{"unknown", peer, in, "halves"},
		{"yes", peer, in, "whole"},
		{"unknown", peer, in, "intervals"},
		{"yes", source, in, "halves"},
		{"no", source, in, "others"},
		{"no", peer, in, "others"},
		{"yes", source, in, "rest"},
		{"yes", peer, in, "rest"},
		{"yes jumpa", source, toVerdict, "map"},
		{"unknown queue", peer, toVerdict, "map"},
		{"no", source, toVerdict, "none"},
		{"yes", source, in, "range"},
		{"unknown", peer, in, "range"},
		{"unknown", source, in, "pairs"},
		{"no", peer, in, "pairs"},
		{"unknown queue", source, toVerdict, "pairs map"},
		{"yes", source, toData, "data map"},
		{"no", peer, toData, "data map"},
	} {
		c.e.SetName = c.set
		got := judged((&nftMachine{newPacket, sets, map[uint32]bits{}}).run([]expr.Any{c.load, &c.e}))
		if got != c.want {
			t.Errorf("%+v in %s (%+v): got %s, want %s", c.load, c.set, c.e, got, c.want)
		}
	}
}

// The matches and targets of iptables.
func TestMatchesOfIPTables(t *testing.T) {
	state := func(match, inverted xt.ConntrackFlags, mask uint16) *xt.ConntrackMtinfo3 {
		base := xt.ConntrackMtinfoBase{MatchFlags: uint16(match), InvertFlags: uint16(inverted)}
		return &xt.ConntrackMtinfo3{ConntrackMtinfo2: xt.ConntrackMtinfo2{ConntrackMtinfoBase: base, StateMask: mask}}
	}
	const isNew, established, invalid = 8, 2, 1
	for _, c := range []struct {
		want string
		m    expr.Match
	}{
		{"yes", expr.Match{Name: "comment"}},
		{"some", expr.Match{Name: "tcp"}},
		{"some", expr.Match{Name: "multiport"}},
		{"some", expr.Match{Name: "limit"}},
		{"no", expr.Match{Name: "udp"}},
		{"no", expr.Match{Name: "icmp"}},
		{"no", expr.Match{Name: "icmp6"}},
		{"unknown", expr.Match{Name: "mark"}},
		{"unknown", expr.Match{Name: "conntrack"}},
		{"unknown", expr.Match{Name: "conntrack", Info: &xt.ConntrackMtinfo1{}}},
		{"yes", expr.Match{Name: "conntrack", Info: state(xt.ConntrackState, 0, isNew|established)}},
		{"no", expr.Match{Name: "conntrack", Info: state(xt.ConntrackState, 0, established|invalid)}},
		{"no", expr.Match{Name: "conntrack", Info: state(xt.ConntrackState, xt.ConntrackState, isNew)}},
		{"yes", expr.Match{Name: "conntrack", Info: state(xt.ConntrackState, xt.ConntrackState, established)}},
		{"yes", expr.Match{Name: "conntrack", Info: state(xt.ConntrackState|xt.ConntrackStateAlias, 0, isNew)}},
		{"unknown", expr.Match{Name: "conntrack", Info: state(xt.ConntrackState|xt.ConntrackStatus, 0, isNew)}},
		{"unknown", expr.Match{Name: "conntrack", Info: state(xt.ConntrackProto, 0, isNew)}},
	} {
		if got := judged((&nftMachine{packet: newPacket}).step(&c.m)); got != c.want {
			t.Errorf("%+v: got %s, want %s", c.m, got, c.want)
		}
	}
	for name, want := range map[string]string{
		"REJECT": "yes drop", "LOG": "yes", "NFLOG": "yes", "MARK": "yes", "CONNMARK": "yes", "TCPMSS": "yes", "AUDIT": "yes", "NFQUEUE": "yes queue",
	} {
		if got := judged((&nftMachine{}).step(&expr.Target{Name: name})); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}
