package dataplane

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Offsets in the transport header: UDP's destination port, and the VNI of a VXLAN header that
// follows UDP's 8 bytes (RFC 7348, section 5).
const (
	destinationPort = 2
	vniOffset       = 8 + 4
	vniSize         = 3
)

// dropOuter blocks VXLAN packets to our port and VNI from senders that are not endpoints of peers.
// Packets to other VNIs belong to other devices. It is at input, where fragments are whole again; those
// of IPv6 only with connection tracking, so their first one, which may end before the VNI, is blocked.
func dropOuter(t topology.TunnelFilter) [][]expr.Any {
	f := familyOf(t.Own.Addr())
	drop := func(match ...expr.Any) []expr.Any {
		return slices.Concat(isFamily(f), notIn(f, f.saddr, f.endpoints), []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			equal([]byte{unix.IPPROTO_UDP}),
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: destinationPort, Len: 2},
			equal(binary.BigEndian.AppendUint16(nil, uint16(t.Port))),
		}, match, []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}})
	}
	rules := [][]expr.Any{drop(
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: vniOffset, Len: vniSize},
		equal(binary.BigEndian.AppendUint32(nil, uint32(t.VNI))[1:]))}
	if !f.is4 {
		rules = append(rules, drop(&expr.Exthdr{DestRegister: 1, Type: unix.IPPROTO_FRAGMENT, Len: 1, Flags: unix.NFT_EXTHDR_F_PRESENT, Op: expr.ExthdrOpIpv6}, equal([]byte{1})))
	}
	return rules
}

// dropInner blocks packets that come by a tunnel and can't be from a pod or a tunnel of a peer.
func dropInner(t topology.TunnelFilter) [][]expr.Any {
	f := familyOf(t.Own.Addr())
	drop := &expr.Verdict{Kind: expr.VerdictDrop}
	from := device(expr.MetaKeyIIFNAME, t.Dev)
	return [][]expr.Any{
		slices.Concat(from, []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{f.nfproto}}, drop}),
		slices.Concat(from, isFamily(f), notIn(f, f.saddr, f.cluster), []expr.Any{drop}),
		slices.Concat(from, isFamily(f), address(f.saddr, t.Own, expr.CmpOpEq), []expr.Any{drop}),
	}
}

// guessFilter reads the parameters of a rule of dropOuter or dropInner, and reports whether it may
// be one.
func guessFilter(m *topology.Masquerade, exprs []expr.Any) bool {
	if set := at[expr.Lookup](exprs, 3); set != nil && strings.HasPrefix(set.SetName, "endpoints") {
		t := filterOf(m, tunnelOfSet(set.SetName))
		if port := at[expr.Cmp](exprs, 7); port != nil && len(port.Data) == 2 {
			t.Port = int(binary.BigEndian.Uint16(port.Data))
		}
		if vni := at[expr.Cmp](exprs, 9); vni != nil && len(vni.Data) == vniSize {
			t.VNI = int(binary.BigEndian.Uint32(append([]byte{0}, vni.Data...)))
		}
		return true
	}
	dev := comparedName(exprs, 1)
	if dev != topology.Tunnel4 && dev != topology.Tunnel6 {
		return false
	}
	if mask, own := at[expr.Bitwise](exprs, 5), at[expr.Cmp](exprs, 6); mask != nil && own != nil {
		filterOf(m, dev).Own = prefixOf(own.Data, mask.Mask)
	}
	return true
}

func tunnelOfSet(name string) string {
	if name == families[0].endpoints {
		return topology.Tunnel4
	}
	return topology.Tunnel6
}

// filterOf returns the filter of a tunnel, which it adds if there is none yet.
func filterOf(m *topology.Masquerade, dev string) *topology.TunnelFilter {
	i, found := slices.BinarySearchFunc(m.Tunnels, dev, func(t topology.TunnelFilter, dev string) int { return strings.Compare(t.Dev, dev) })
	if !found {
		m.Tunnels = slices.Insert(m.Tunnels, i, topology.TunnelFilter{Dev: dev})
	}
	return &m.Tunnels[i]
}
