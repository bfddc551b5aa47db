package inspect

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// Packet is a packet that this host forwards: a TCP segment or a UDP datagram with unknown ports.
type Packet struct {
	In, Out    string       // the devices; empty: not known
	From, To   netip.Prefix // that contain its addresses
	Reply, UDP bool         // a reply is from the end that did not begin the connection
}

func (p Packet) String() string {
	kind := choose(p.Reply, "answer", "new") + choose(p.UDP, ", UDP", "")
	return fmt.Sprintf("from %s (%s) to %s (%s), %s", addrOrPrefix(p.From), p.In, addrOrPrefix(p.To), p.Out, kind)
}

func addrOrPrefix(p netip.Prefix) string {
	return choose(p.IsSingleIP(), p.Addr().String(), p.String())
}

func (p Packet) is4() bool { return p.From.Addr().Is4() }

// choose returns a if the condition holds, and b otherwise.
func choose[T any](condition bool, a, b T) T {
	if condition {
		return a
	}
	return b
}

// meta returns a field of the kernel's metadata of a packet.
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
		return certain([]byte{p.protocol()})
	case expr.MetaKeyNFPROTO:
		return certain([]byte{choose[byte](p.is4(), unix.NFPROTO_IPV4, unix.NFPROTO_IPV6)})
	case expr.MetaKeyPROTOCOL:
		return certain(binary.BigEndian.AppendUint16(nil, choose[uint16](p.is4(), unix.ETH_P_IP, unix.ETH_P_IPV6)))
	}
	return bits{}
}

func (p Packet) protocol() byte { return choose[byte](p.UDP, unix.IPPROTO_UDP, unix.IPPROTO_TCP) }

func deviceName(name string) bits {
	if name == "" {
		return uncertain(unix.IFNAMSIZ)
	}
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return certain(padded)
}

func deviceIndex(name string) bits {
	dev, err := net.InterfaceByName(name)
	if err != nil {
		return bits{}
	}
	return certain(binary.NativeEndian.AppendUint32(nil, uint32(dev.Index)))
}

// state returns the state of the connection, a bit of linux/netfilter/nf_conntrack_common.h.
func (p Packet) state() uint32 {
	return choose[uint32](p.Reply, expr.CtStateBitESTABLISHED, expr.CtStateBitNEW)
}

func (p Packet) ct(key expr.CtKey) bits {
	switch key {
	case expr.CtKeySTATE:
		return certain(binary.NativeEndian.AppendUint32(nil, p.state()))
	case expr.CtKeyDIRECTION:
		return certain([]byte{choose[byte](p.Reply, 1, 0)})
	}
	return bits{}
}

// payload returns a field of the IP header, of which protocol and addresses are known.
func (p Packet) payload(e *expr.Payload) bits {
	if e.Base == expr.PayloadBaseTransportHeader {
		return bits{make([]byte, e.Len), make([]byte, e.Len), true}
	}
	header, protocol, addresses := uncertain(20), 9, 12
	header.known[6], header.known[7] = 0xbf, 0xff // no fragment; DF may be set
	if !p.is4() {
		header, protocol, addresses = uncertain(40), 6, 8
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

// address returns n bytes at an offset of the IP header.
func (p Packet) address(at, n int) bits {
	return p.payload(&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: uint32(at), Len: uint32(n)})
}

// xtMatch evaluates an xtables match of iptables.
func (p Packet) xtMatch(e *expr.Match) truth {
	switch e.Name {
	case "comment":
		return yes
	case "multiport", "limit":
		return some
	case "tcp", "udp":
		return choose(p.UDP == (e.Name == "udp"), some, no)
	case "icmp", "icmp6":
		return no
	case "conntrack":
		const state, alias = uint16(xt.ConntrackState), uint16(xt.ConntrackStateAlias)
		info, ok := e.Info.(*xt.ConntrackMtinfo3) // the revision that iptables has used since 2011
		if !ok || info.MatchFlags|alias != state|alias {
			return unknown
		}
		return truth(min(uint32(info.StateMask)&p.state(), 1)).not(info.InvertFlags&state != 0)
	}
	return unknown
}

// xtTarget returns the verdict of an xtables target of iptables.
func xtTarget(name string) expr.Verdict {
	switch name {
	case "REJECT":
		return drop
	case "LOG", "NFLOG", "MARK", "CONNMARK", "TCPMSS", "AUDIT":
		return pass
	}
	return undecided
}
