package dataplane

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// meta are what the kernel knows of a packet beside its bytes.
func (p Packet) meta(key expr.MetaKey) bits {
	switch key {
	case expr.MetaKeyIIFNAME:
		return deviceName(p.In)
	case expr.MetaKeyOIFNAME:
		return deviceName(p.Out)
	case expr.MetaKeyIIF:
		return deviceIndex(p.In)
	case expr.MetaKeyOIF:
		return deviceIndex(p.Out)
	case expr.MetaKeyL4PROTO:
		return sure([]byte{p.protocol()})
	case expr.MetaKeyNFPROTO:
		if p.From.Addr().Is4() {
			return sure([]byte{unix.NFPROTO_IPV4})
		}
		return sure([]byte{unix.NFPROTO_IPV6})
	case expr.MetaKeyPROTOCOL:
		if p.From.Addr().Is4() {
			return sure(binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP))
		}
		return sure(binary.BigEndian.AppendUint16(nil, unix.ETH_P_IPV6))
	}
	return bits{}
}

func (p Packet) protocol() byte {
	if p.UDP {
		return unix.IPPROTO_UDP
	}
	return unix.IPPROTO_TCP
}

func deviceName(name string) bits {
	if name == "" {
		return blank(unix.IFNAMSIZ)
	}
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return sure(padded)
}

func deviceIndex(name string) bits {
	dev, err := net.InterfaceByName(name)
	if err != nil {
		return bits{}
	}
	return sure(binary.NativeEndian.AppendUint32(nil, uint32(dev.Index)))
}

// state is that of the connection, a bit of linux/netfilter/nf_conntrack_common.h.
func (p Packet) state() uint32 {
	if p.Answer {
		return expr.CtStateBitESTABLISHED
	}
	return expr.CtStateBitNEW
}

func (p Packet) ct(key expr.CtKey) bits {
	switch key {
	case expr.CtKeySTATE:
		return sure(binary.NativeEndian.AppendUint32(nil, p.state()))
	case expr.CtKeyDIRECTION:
		if p.Answer {
			return sure([]byte{1})
		}
		return sure([]byte{0})
	}
	return bits{}
}

// payload cuts a field out of the header of IP, of which protocol and addresses are known.
func (p Packet) payload(e *expr.Payload) bits {
	if e.Base == expr.PayloadBaseTransportHeader {
		return bits{make([]byte, e.Len), make([]byte, e.Len), true}
	}
	header, protocol, addresses := blank(20), 9, 12
	header.known[6], header.known[7] = 0xbf, 0xff // no fragment; DF may be set
	if !p.From.Addr().Is4() {
		header, protocol, addresses = blank(40), 6, 8
	}
	if e.Base != expr.PayloadBaseNetworkHeader || int(e.Offset+e.Len) > len(header.value) {
		return bits{}
	}
	header.value[protocol], header.known[protocol] = p.protocol(), 0xff
	for _, a := range []netip.Prefix{p.From, p.To} {
		copy(header.value[addresses:], a.Addr().AsSlice())
		copy(header.known[addresses:], net.CIDRMask(a.Bits(), a.Addr().BitLen()))
		addresses += a.Addr().BitLen() / 8
	}
	return bits{value: header.value[e.Offset:][:e.Len], known: header.known[e.Offset:][:e.Len]}
}

// address is that of n bytes at a place of the header of IP.
func (p Packet) address(at, n int) bits {
	return p.payload(&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: uint32(at), Len: uint32(n)})
}

// xtMatch judges a match of iptables-nft that nftables has no words for.
func (p Packet) xtMatch(e *expr.Match) truth {
	switch e.Name {
	case "comment":
		return yes
	case "multiport", "limit":
		return some
	case "tcp", "udp":
		if p.UDP == (e.Name == "udp") {
			return some
		}
		return no
	case "icmp", "icmp6":
		return no
	case "conntrack":
		const state, alias = uint16(xt.ConntrackState), uint16(xt.ConntrackStateAlias)
		info, ok := e.Info.(*xt.ConntrackMtinfo3) // the revision that iptables has asked for since 2011
		if !ok || info.MatchFlags|alias != state|alias {
			return unknown
		}
		return truth(min(uint32(info.StateMask)&p.state(), 1)).not(info.InvertFlags&state != 0)
	}
	return unknown
}

// xtTarget judges a target of iptables.
func xtTarget(name string) expr.Verdict {
	switch name {
	case "REJECT":
		return drop
	case "LOG", "NFLOG", "MARK", "CONNMARK", "TCPMSS", "AUDIT":
		return pass
	}
	return dunno
}

// bits are the value of a field, as far as it is known.
type bits struct {
	value, known []byte
	varies       bool // what is not known differs from packet to packet
}

func sure(value []byte) bits {
	return bits{value: value, known: bytes.Repeat([]byte{0xff}, len(value))}
}

func blank(n uint32) bits { return bits{value: make([]byte, n), known: make([]byte, n)} }

// doubt is what a comparison gives that depends on unknown bits.
func (b bits) doubt() truth {
	if b.varies {
		return some
	}
	return unknown
}

// equals compares as many bytes as are given: "eth*" is a comparison of three.
func (b bits) equals(with []byte) truth {
	if len(with) > len(b.value) {
		return unknown
	}
	all := true
	for i, w := range with {
		if (b.value[i]^w)&b.known[i] != 0 {
			return no
		}
		all = all && b.known[i] == 0xff
	}
	if !all {
		return b.doubt()
	}
	return yes
}

// within compares with a range: all values that the bits may have are in it, none is,
// or nobody can tell.
func (b bits) within(from, to []byte) truth {
	if len(from) != len(b.value) {
		return unknown
	}
	least, most := make([]byte, len(from)), make([]byte, len(from))
	for i, k := range b.known {
		least[i], most[i] = b.value[i]&k, b.value[i]|^k
	}
	switch {
	case bytes.Compare(most, from) < 0 || bytes.Compare(least, to) > 0:
		return no
	case bytes.Compare(least, from) >= 0 && bytes.Compare(most, to) <= 0:
		return yes
	}
	return b.doubt()
}

// atLeast compares with the end of a range that has no other.
func (b bits) atLeast(from []byte) truth {
	return b.within(from, bytes.Repeat([]byte{0xff}, len(from)))
}

func (t truth) not(not bool) truth {
	if not && t <= yes {
		return yes - t
	}
	return t
}

// and is what two conditions make: one that is not met is enough.
func (t truth) and(o truth) truth {
	if t == no || o == no {
		return no
	}
	return max(t, o)
}

// masked leaves the bits of a mask and flips others. It makes sure of those that the mask leaves out.
func (b bits) masked(mask, flip []byte) bits {
	out := bits{make([]byte, len(b.value)), make([]byte, len(b.value)), b.varies}
	for i := range b.value {
		out.value[i], out.known[i] = b.value[i]&mask[i]^flip[i], b.known[i]|^mask[i]
	}
	return out
}
