package inspect

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// The packets of these tests: from a pod to pods of a peer, with one unknown device; the reply; and
// one of IPv6.
var (
	newPacket    = Packet{In: "lo", From: netip.MustParsePrefix("10.244.1.7/32"), To: netip.MustParsePrefix("10.244.2.0/24")}
	answerPacket = Packet{In: "lo", Out: "lo", From: newPacket.To, To: newPacket.From, Reply: true}
	ipv6Packet   = Packet{In: "lo", Out: "eth0", From: netip.MustParsePrefix("fd00::7/128"), To: netip.MustParsePrefix("fd00:2::/64")}
)

var truthNames = map[truth]string{no: "no", yes: "yes", some: "some", unknown: "unknown"}

// result prints whether a rule matches a packet, and its verdict and chain, unless the verdict is
// to continue.
func result(matches truth, v expr.Verdict) string {
	text := map[expr.VerdictKind]string{
		expr.VerdictAccept: " accept", expr.VerdictDrop: " drop", expr.VerdictJump: " jump", expr.VerdictGoto: " goto",
		expr.VerdictReturn: " return", expr.VerdictQueue: " queue",
	}[v.Kind]
	if matches == no {
		return "no"
	}
	return truthNames[matches] + text + v.Chain
}

// headerField, ipField, metaField and ctField load register 1; the others read it.
func headerField(base expr.PayloadBase, offset, n uint32) expr.Any {
	return &expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: n}
}

func ipField(offset, n uint32) expr.Any   { return headerField(expr.PayloadBaseNetworkHeader, offset, n) }
func metaField(key expr.MetaKey) expr.Any { return &expr.Meta{Key: key, Register: 1} }
func ctField(key expr.CtKey) expr.Any     { return &expr.Ct{Key: key, Register: 1} }
func cmpWith(op expr.CmpOp, data ...byte) expr.Any {
	return &expr.Cmp{Op: op, Register: 1, Data: data}
}
func cmpIs(data ...byte) expr.Any { return cmpWith(expr.CmpOpEq, data...) }
func cmpRange(op expr.CmpOp, from, to []byte) expr.Any {
	return &expr.Range{Op: op, Register: 1, FromData: from, ToData: to}
}

func maskWith(mask, xor []byte) expr.Any {
	return &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(len(mask)), Mask: mask, Xor: xor}
}

// Offsets of header fields (RFC 791, RFC 8200).
const (
	sourceAt, targetAt     = 12, 16
	fragmentAt, protocolAt = 6, 9
	source6At              = 8
	target6At              = 24
	nextHeaderAt           = 6
)

var (
	nameOfLoopback = append([]byte("lo"), make([]byte, unix.IFNAMSIZ-2)...)
	addr6          = netip.MustParseAddr("fd00::7").AsSlice()
)

var expressionCases = []struct {
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
	// Fields of the IP header.
	{"yes", newPacket, []expr.Any{ipField(sourceAt, 4), cmpIs(10, 244, 1, 7)}},
	{"no", newPacket, []expr.Any{ipField(sourceAt, 4), cmpIs(10, 244, 1, 8)}},
	{"yes", newPacket, []expr.Any{ipField(targetAt, 3), cmpIs(10, 244, 2)}},
	{"unknown", newPacket, []expr.Any{ipField(targetAt, 4), cmpIs(10, 244, 2, 9)}},
	{"no", newPacket, []expr.Any{ipField(targetAt, 4), cmpIs(10, 244, 3, 9)}},
	{"unknown", newPacket, []expr.Any{ipField(sourceAt, 8), cmpIs(10, 244, 1, 7, 10, 244, 2, 9)}},
	{"no", answerPacket, []expr.Any{ipField(sourceAt, 8), cmpIs(10, 244, 2, 9, 10, 244, 1, 8)}}, // though some lie on either side
	{"yes", newPacket, []expr.Any{ipField(protocolAt, 1), cmpIs(unix.IPPROTO_TCP)}},
	{"unknown", newPacket, []expr.Any{ipField(protocolAt-1, 1), cmpIs(64)}},
	{"unknown", newPacket, []expr.Any{ipField(protocolAt+1, 1), cmpIs(64)}},
	{"yes", newPacket, []expr.Any{ipField(fragmentAt, 2), maskWith([]byte{0x3f, 0xff}, []byte{0, 0}), cmpIs(0, 0)}},
	{"unknown", newPacket, []expr.Any{ipField(fragmentAt, 2), cmpIs(0, 0)}}, // DF
	{"unknown", newPacket, []expr.Any{ipField(fragmentAt-1, 1), cmpIs(0)}},
	{"unknown", newPacket, []expr.Any{ipField(fragmentAt+2, 1), cmpIs(0)}},
	{"yes", ipv6Packet, []expr.Any{ipField(source6At, 16), cmpIs(addr6...)}},
	{"no", ipv6Packet, []expr.Any{ipField(target6At, 16), cmpIs(addr6...)}},
	{"yes", ipv6Packet, []expr.Any{ipField(target6At, 8), cmpIs(0xfd, 0, 0, 2, 0, 0, 0, 0)}},
	{"unknown", ipv6Packet, []expr.Any{ipField(39, 1), cmpIs(1)}},
	{"unknown", ipv6Packet, []expr.Any{ipField(40, 1), cmpIs(1)}}, // beyond the header
	{"unknown", newPacket, []expr.Any{ipField(20, 1), cmpIs(1)}},
	{"yes", ipv6Packet, []expr.Any{ipField(nextHeaderAt, 1), cmpIs(unix.IPPROTO_TCP)}},
	{"unknown", ipv6Packet, []expr.Any{ipField(nextHeaderAt+1, 1), cmpIs(0xff)}},
	// Ports differ between packets, MAC addresses are unknown.
	{"some", newPacket, []expr.Any{headerField(expr.PayloadBaseTransportHeader, 2, 2), cmpIs(0, 9)}},
	{"some", newPacket, []expr.Any{headerField(expr.PayloadBaseTransportHeader, 2, 2), maskWith([]byte{0xff, 0}, []byte{0, 0}), cmpIs(9, 0)}},
	{"some", newPacket, []expr.Any{headerField(expr.PayloadBaseTransportHeader, 2, 2), cmpWith(expr.CmpOpLt, 4, 0)}},
	{"yes", newPacket, []expr.Any{headerField(expr.PayloadBaseTransportHeader, 2, 2), cmpWith(expr.CmpOpGte, 0, 0)}},
	{"unknown", newPacket, []expr.Any{headerField(expr.PayloadBaseLLHeader, 6, 4), cmpIs(0, 0, 0, 0)}},
	// A write does not change the register.
	{"yes", newPacket, []expr.Any{&expr.Immediate{Register: 1, Data: []byte{7}}, &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1}, cmpIs(7)}},
	{"yes", newPacket, []expr.Any{&expr.Immediate{Register: 1, Data: []byte{7}}, &expr.Ct{Key: expr.CtKeyMARK, SourceRegister: true, Register: 1}, cmpIs(7)}},
	{"yes", newPacket, []expr.Any{&expr.Immediate{Register: 1, Data: []byte{7}}, &expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: 1}, cmpIs(7)}},
	{"unknown", newPacket, []expr.Any{ipField(sourceAt, 4), cmpIs(10, 244, 1, 7), cmpIs(10, 244, 1, 7)}}, // of which the second load is one that the library leaves out
	// Masks.
	{"yes", newPacket, []expr.Any{ipField(sourceAt, 4), maskWith([]byte{255, 248, 0, 0}, []byte{0, 0, 0, 0}), cmpIs(10, 240, 0, 0)}},
	{"yes", newPacket, []expr.Any{ipField(targetAt, 4), maskWith([]byte{255, 255, 255, 0}, []byte{1, 0, 0, 0}), cmpIs(11, 244, 2, 0)}},
	{"unknown", newPacket, []expr.Any{ipField(sourceAt, 4), &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4}, cmpIs(0, 0, 0, 0)}}, // a shift
	{"unknown", newPacket, []expr.Any{metaField(expr.MetaKeyMARK), maskWith([]byte{0, 0, 0, 1}, []byte{0, 0, 0, 0}), cmpIs(0, 0, 0, 0)}},
	// Ranges, which include both ends.
	{"yes", newPacket, []expr.Any{ipField(sourceAt+2, 2), cmpWith(expr.CmpOpGte, 1, 7), cmpWith(expr.CmpOpLte, 1, 7)}},
	{"no", newPacket, []expr.Any{ipField(sourceAt+2, 2), cmpWith(expr.CmpOpGte, 1, 8)}},
	{"no", newPacket, []expr.Any{ipField(sourceAt+2, 2), cmpWith(expr.CmpOpLte, 1, 6)}},
	{"no", newPacket, []expr.Any{ipField(sourceAt+2, 2), cmpWith(expr.CmpOpLt, 1, 7)}},
	{"yes", newPacket, []expr.Any{ipField(sourceAt+2, 2), cmpWith(expr.CmpOpLt, 1, 8)}},
	{"no", newPacket, []expr.Any{ipField(sourceAt+2, 2), cmpWith(expr.CmpOpGt, 1, 7)}},
	{"yes", newPacket, []expr.Any{ipField(sourceAt+2, 2), cmpWith(expr.CmpOpGt, 0, 255)}},
	{"unknown", newPacket, []expr.Any{ipField(targetAt+2, 2), cmpWith(expr.CmpOpLt, 2, 1)}},
	{"yes", newPacket, []expr.Any{ipField(targetAt+2, 2), cmpWith(expr.CmpOpLte, 2, 255)}},
	{"yes", newPacket, []expr.Any{ipField(targetAt+2, 2), cmpWith(expr.CmpOpGte, 2, 0)}},
	{"no", newPacket, []expr.Any{ipField(targetAt+2, 2), cmpWith(expr.CmpOpGte, 3, 0)}},
	{"yes", newPacket, []expr.Any{ipField(targetAt+2, 2), cmpRange(expr.CmpOpEq, []byte{2, 0}, []byte{2, 255})}},
	{"unknown", newPacket, []expr.Any{ipField(targetAt+2, 2), cmpRange(expr.CmpOpEq, []byte{2, 0}, []byte{2, 254})}},
	{"no", newPacket, []expr.Any{ipField(targetAt+2, 2), cmpRange(expr.CmpOpNeq, []byte{2, 0}, []byte{2, 255})}},
	{"yes", newPacket, []expr.Any{ipField(targetAt+2, 2), cmpRange(expr.CmpOpNeq, []byte{3, 0}, []byte{4, 0})}},
	{"unknown", newPacket, []expr.Any{metaField(expr.MetaKeyMARK), cmpRange(expr.CmpOpEq, []byte{0, 0, 0, 1}, []byte{0, 0, 0, 2})}},
	{"no", newPacket, []expr.Any{ipField(sourceAt, 4), cmpWith(expr.CmpOpNeq, 10, 244, 1, 7)}},
	{"yes", newPacket, []expr.Any{ipField(sourceAt, 4), cmpWith(expr.CmpOpNeq, 10, 244, 1, 8)}},
	{"unknown", newPacket, []expr.Any{ipField(targetAt, 4), cmpWith(expr.CmpOpNeq, 10, 244, 2, 8)}},
	// Devices, one of them known.
	{"yes", newPacket, []expr.Any{metaField(expr.MetaKeyIIFNAME), cmpIs(nameOfLoopback...)}},
	{"yes", newPacket, []expr.Any{metaField(expr.MetaKeyIIFNAME), cmpIs('l')}},
	{"no", newPacket, []expr.Any{metaField(expr.MetaKeyIIFNAME), cmpIs('e')}},
	{"unknown", newPacket, []expr.Any{metaField(expr.MetaKeyOIFNAME), cmpIs('l')}},
	{"no", ipv6Packet, []expr.Any{metaField(expr.MetaKeyOIFNAME), cmpIs('l')}},
	{"yes", newPacket, []expr.Any{metaField(expr.MetaKeyIIF), cmpIs(1, 0, 0, 0)}}, // in each network namespace
	{"no", newPacket, []expr.Any{metaField(expr.MetaKeyIIF), cmpIs(2, 0, 0, 0)}},
	{"unknown", newPacket, []expr.Any{metaField(expr.MetaKeyOIF), cmpIs(1, 0, 0, 0)}},
	{"yes", answerPacket, []expr.Any{metaField(expr.MetaKeyOIF), cmpIs(1, 0, 0, 0)}},
	{"unknown", newPacket, []expr.Any{metaField(expr.MetaKeyMARK), cmpIs(1, 0, 0, 0)}},
	// Protocols: IP's in host byte order, Ethernet's in network byte order.
	{"yes", newPacket, []expr.Any{metaField(expr.MetaKeyL4PROTO), cmpIs(unix.IPPROTO_TCP)}},
	{"yes", newPacket, []expr.Any{metaField(expr.MetaKeyNFPROTO), cmpIs(unix.NFPROTO_IPV4)}},
	{"yes", ipv6Packet, []expr.Any{metaField(expr.MetaKeyNFPROTO), cmpIs(unix.NFPROTO_IPV6)}},
	{"yes", newPacket, []expr.Any{metaField(expr.MetaKeyPROTOCOL), cmpIs(0x08, 0x00)}},
	{"yes", ipv6Packet, []expr.Any{metaField(expr.MetaKeyPROTOCOL), cmpIs(0x86, 0xdd)}},
	// Connections (linux/netfilter/nf_conntrack_common.h).
	{"yes", newPacket, []expr.Any{ctField(expr.CtKeySTATE), cmpIs(8, 0, 0, 0)}},
	{"yes", answerPacket, []expr.Any{ctField(expr.CtKeySTATE), cmpIs(2, 0, 0, 0)}},
	{"yes", newPacket, []expr.Any{ctField(expr.CtKeyDIRECTION), cmpIs(0)}},
	{"yes", answerPacket, []expr.Any{ctField(expr.CtKeyDIRECTION), cmpIs(1)}},
	{"unknown", newPacket, []expr.Any{ctField(expr.CtKeySTATUS), cmpIs(1, 0, 0, 0)}},
}

// Expressions are evaluated as by the nft_*_eval functions of net/netfilter, as far as the packet
// is known.
func TestExpressions(t *testing.T) {
	for _, c := range expressionCases {
		got := result((&nftVM{c.p, nil, map[uint32]bits{}}).run(c.do))
		if got != c.want {
			text := ""
			for _, e := range c.do {
				text += fmt.Sprintf(" %+v", e)
			}
			t.Errorf("%v: got %s, want %s:%s", c.p, got, c.want, text)
		}
	}
}

// A shift, of which the library does not decode the distance, makes its destination unknown.
func TestShiftIntoAnotherRegister(t *testing.T) {
	shift := &expr.Bitwise{SourceRegister: 1, DestRegister: 2, Len: 4}
	got := result((&nftVM{newPacket, nil, map[uint32]bits{}}).run([]expr.Any{
		&expr.Immediate{Register: 2, Data: []byte{9, 9, 9, 9}}, ipField(sourceAt, 4), shift, &expr.Cmp{Register: 2, Data: []byte{9, 9, 9, 9}},
	}))
	if got != "unknown" {
		t.Error(got)
	}
}

// valJump is the verdict of a set element as the kernel encodes it: attributes NFTA_VERDICT_CODE
// and NFTA_VERDICT_CHAIN.
func valJump(chain string) []byte {
	b := []byte{8, 0, 1, 0, 0xff, 0xff, 0xff, 0xfd, byte(5 + len(chain)), 0, 2, 0}
	return append(append(b, chain...), 0)
}

func elementFrom(key ...byte) nftables.SetElement { return nftables.SetElement{Key: key} }
func elementEnd(key ...byte) nftables.SetElement {
	return nftables.SetElement{Key: key, IntervalEnd: true}
}

func elementTo(v []byte, key ...byte) nftables.SetElement {
	return nftables.SetElement{Key: key, Val: v}
}

var valAccept = []byte{8, 0, 1, 0, 0, 0, 0, 1}

// lookupSets have keys of two bytes of an address, or of these and a port.
var lookupSets = map[string]elementSet{
	"none":    {},
	"unknown": {elements: make([]nftables.SetElement, 1)},
	"single":  {elements: []nftables.SetElement{elementFrom(1, 6), elementFrom(1, 7), elementFrom(2, 9)}},
	"peer":    {elements: []nftables.SetElement{elementFrom(2, 9)}},
	// 1.0 to 1.6 and 2.0 to 2.255, in two adjacent elements
	"intervals": {true, []nftables.SetElement{elementFrom(1, 0), elementEnd(1, 7), elementFrom(2, 0), elementEnd(2, 128), elementFrom(2, 128), elementEnd(3, 0)}},
	"halves":    {true, []nftables.SetElement{elementFrom(1, 7), elementFrom(2, 0), elementEnd(2, 0), elementEnd(2, 128)}},
	"whole":     {true, []nftables.SetElement{elementFrom(2, 0), elementEnd(2, 0), elementEnd(3, 0)}},
	"others":    {true, []nftables.SetElement{elementFrom(1, 0), elementEnd(1, 7), elementFrom(3, 0)}},
	"rest":      {true, []nftables.SetElement{elementFrom(1, 7)}},
	"map":       {elements: []nftables.SetElement{elementTo(valJump("a"), 1, 7), elementTo(valAccept, 2, 1), elementTo(valAccept, 10, 244)}},
	"range":     {true, []nftables.SetElement{{Key: []byte{1, 0}, KeyEnd: []byte{1, 7}}, {Key: []byte{2, 0}, KeyEnd: []byte{2, 1}}}},
	"pairs":     {elements: []nftables.SetElement{elementFrom(1, 7, 0, 80), elementFrom(1, 8, 0, 80)}},
	"pairs map": {elements: []nftables.SetElement{elementTo(valAccept, 1, 7, 0, 80)}},
	"data map":  {elements: []nftables.SetElement{elementTo([]byte{9, 9, 9, 9}, 1, 7), elementTo(valJump("a"), 1, 8)}},
}

// Sets and maps are searched as by nft_lookup_eval.
func TestLookups(t *testing.T) {
	source, peer, mark := ipField(sourceAt+2, 2), ipField(targetAt+2, 2), metaField(expr.MetaKeyMARK)
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
		{"yes accept", ipField(sourceAt, 2), toVerdict, "map"},
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
		got := result((&nftVM{newPacket, lookupSets, map[uint32]bits{}}).run([]expr.Any{c.load, &c.e}))
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
		if got := result((&nftVM{packet: newPacket}).step(&c.m)); got != c.want {
			t.Errorf("%+v: got %s, want %s", c.m, got, c.want)
		}
	}
	for name, want := range map[string]string{
		"REJECT": "yes drop", "LOG": "yes", "NFLOG": "yes", "MARK": "yes", "CONNMARK": "yes", "TCPMSS": "yes", "AUDIT": "yes", "NFQUEUE": "yes queue",
	} {
		if got := result((&nftVM{}).step(&expr.Target{Name: name})); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}
