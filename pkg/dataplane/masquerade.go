package dataplane

import (
	"errors"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// perMessage is how many elements go into one netlink message: its length is a 16-bit attribute's,
// and google/nftables silently cuts off what exceeds it.
const perMessage = 500

var nftTable = &nftables.Table{Name: topology.Table, Family: nftables.TableFamilyINet}

// A family has what differs between IPv4 and IPv6 in our rules.
type family struct {
	is4                bool
	nfproto            byte
	saddr, daddr, size uint32 // offsets and size of addresses in the IP header
	multicast          netip.Prefix
	keyType            nftables.SetDatatype
	cluster, nodes     string // names of the sets
	endpoints          string
}

var families = []family{
	{true, unix.NFPROTO_IPV4, 12, 16, 4, netip.MustParsePrefix("224.0.0.0/4"), nftables.TypeIPAddr, "cluster4", "nodes4", "endpoints4"},
	{false, unix.NFPROTO_IPV6, 8, 24, 16, netip.MustParsePrefix("ff00::/8"), nftables.TypeIP6Addr, "cluster6", "nodes6", "endpoints6"},
}

func (f family) clusterSet() *nftables.Set {
	return &nftables.Set{Table: nftTable, Name: f.cluster, KeyType: f.keyType, Interval: true}
}

func (f family) nodesSet() *nftables.Set {
	return &nftables.Set{Table: nftTable, Name: f.nodes, KeyType: f.keyType}
}

func (f family) endpointsSet() *nftables.Set {
	return &nftables.Set{Table: nftTable, Name: f.endpoints, KeyType: f.keyType}
}

// sets returns those that a table has of a family.
func (f family) sets(m *topology.Masquerade) (sets []*nftables.Set) {
	if m.KnowsCluster(f.is4) {
		sets = append(sets, f.clusterSet())
	}
	if m.Serves(f.is4) {
		sets = append(sets, f.nodesSet())
	}
	if m.Filters(f.is4) {
		sets = append(sets, f.endpointsSet())
	}
	return sets
}

// A chain is one of our chains, with its rules.
type chain struct {
	*nftables.Chain
	rules [][]expr.Any
}

// chains returns our chains. Their rules refer to sets by name, so the sets need not exist for a
// comparison with the kernel's rules.
func chains(m *topology.Masquerade) []chain {
	pre := chain{&nftables.Chain{
		Name: "prerouting", Table: nftTable, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw, Policy: new(nftables.ChainPolicyAccept),
	}, [][]expr.Any{dropLoopback(m.Bridge), dropAdvertisement(m.Bridge)}}
	all := []chain{pre}
	if len(m.Tunnels) > 0 {
		input := chain{Chain: &nftables.Chain{
			Name: "input", Table: nftTable, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityRaw, Policy: new(nftables.ChainPolicyAccept),
		}}
		for _, t := range m.Tunnels {
			all[0].rules = append(all[0].rules, dropInner(t)...)
			input.rules = append(input.rules, dropOuter(t)...)
		}
		all = append([]chain{input}, all...)
	}
	if len(m.Sources) == 0 {
		return all
	}
	post := chain{&nftables.Chain{
		Name: "postrouting", Table: nftTable, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource, Policy: new(nftables.ChainPolicyAccept),
	}, [][]expr.Any{skipBridged(m.Bridge)}}
	for _, src := range m.Sources {
		for _, e := range m.Egress {
			if e.Addr.Is4() == src.Addr().Is4() {
				post.rules = append(post.rules, translate(src, e))
			}
		}
		post.rules = append(post.rules, masquerade(src))
	}
	return slices.Insert(all, len(all)-1, post) // sorted by name
}

// skipBridged excludes packets between pods of this node from NAT, which br_netfilter passes to the
// chain too.
func skipBridged(bridge string) []expr.Any {
	return append(device(expr.MetaKeyOIFNAME, bridge), &expr.Verdict{Kind: expr.VerdictReturn})
}

// dropLoopback blocks packets from pods to the host's loopback addresses, which portmap's
// route_localnet would allow (CVE-2020-8558 is that hole in kube-proxy).
func dropLoopback(bridge string) []expr.Any {
	return slices.Concat(device(expr.MetaKeyIIFNAME, bridge), isFamily(families[0]),
		address(families[0].daddr, netip.MustParsePrefix("127.0.0.0/8"), expr.CmpOpEq), []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}})
}

// ndRouterAdvert is the ICMPv6 type of a router advertisement (RFC 4861, section 4.2).
const ndRouterAdvert = 134

// dropAdvertisement keeps a pod from becoming the router of its neighbors and of its node. Packets
// between pods of one node pass this chain if bridge-nf-call-ip6tables is 1.
func dropAdvertisement(bridge string) []expr.Any {
	return slices.Concat(device(expr.MetaKeyIIFNAME, bridge), isFamily(families[1]), []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		equal([]byte{unix.IPPROTO_ICMPV6}),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		equal([]byte{ndRouterAdvert}),
		&expr.Verdict{Kind: expr.VerdictDrop},
	})
}

// outside matches packets from a pod subnet to destinations that are masqueraded.
func outside(f family, src netip.Prefix) []expr.Any {
	return slices.Concat(isFamily(f), address(f.saddr, src, expr.CmpOpEq),
		notIn(f, f.daddr, f.cluster), notIn(f, f.daddr, f.nodes), address(f.daddr, f.multicast, expr.CmpOpNeq))
}

// masquerade lets the kernel select the source address, on a link with only one.
func masquerade(src netip.Prefix) []expr.Any {
	return append(outside(familyOf(src.Addr()), src), &expr.Masq{FullyRandom: true})
}

// translate sets the source address on a link with several.
func translate(src netip.Prefix, e topology.Egress) []expr.Any {
	f := familyOf(src.Addr())
	return append(append(outside(f, src), device(expr.MetaKeyOIFNAME, e.Dev)...),
		&expr.Immediate{Register: 1, Data: e.Addr.AsSlice()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: uint32(f.nfproto), RegAddrMin: 1, RegAddrMax: 1, FullyRandom: true},
	)
}

func familyOf(addr netip.Addr) family {
	if addr.Is6() {
		return families[1]
	}
	return families[0]
}

func equal(data []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data}
}

func isFamily(f family) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, equal([]byte{f.nfproto})}
}

// address compares an address of the IP header with a prefix.
func address(offset uint32, p netip.Prefix, op expr.CmpOp) []expr.Any {
	size := uint32(p.Addr().BitLen() / 8)
	mask := net.CIDRMask(p.Bits(), p.Addr().BitLen())
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: mask, Xor: make([]byte, size)},
		&expr.Cmp{Op: op, Register: 1, Data: p.Masked().Addr().AsSlice()},
	}
}

// notIn matches addresses of the IP header that are not in a set.
func notIn(f family, offset uint32, set string) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.size},
		&expr.Lookup{SourceRegister: 1, SetName: set, Invert: true},
	}
}

// device matches the name of the input or output device.
func device(key expr.MetaKey, name string) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, equal(paddedName(name))}
}

func paddedName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

// writeTable replaces our table, if there is one, in one transaction.
func (k *Kernel) writeTable(m *topology.Masquerade) error {
	k.nft.AddTable(nftTable)
	k.nft.DelTable(nftTable)
	k.nft.AddTable(nftTable)
	for _, f := range families {
		var err error
		for _, set := range f.sets(m) {
			err = errors.Join(err, k.nft.AddSet(set, nil))
		}
		if err = errors.Join(err, eachElement(f, m.Cluster, m.Nodes, m.Endpoints, k.nft.SetAddElements)); err != nil {
			return k.abandon(err)
		}
	}
	for _, c := range chains(m) {
		k.nft.AddChain(c.Chain)
		for _, rule := range c.rules {
			k.nft.AddRule(&nftables.Rule{Table: nftTable, Chain: c.Chain, Exprs: rule})
		}
	}
	return k.flush(m)
}

// flush sends the queue as one transaction, and keeps its outcome.
func (k *Kernel) flush(outcome *topology.Masquerade) error {
	if err := k.nft.Flush(); err != nil {
		return k.abandon(err)
	}
	k.masquerade = outcome
	return nil
}

// abandon drops the queue and the connection after a failure.
func (k *Kernel) abandon(err error) error {
	return errors.Join(err, k.dialNFT())
}

// dialNFT opens a connection for our table. It replaces one that has failed, because that may have
// unread answers: the kernel sends an error for each message of a refused transaction, and
// google/nftables matches answers by their order but stops reading at the first EPERM or ENOBUFS.
func (k *Kernel) dialNFT() error {
	var conn *netlink.Conn
	var nft *nftables.Conn
	err := k.namespace.do(func() (err error) {
		nft, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
			conn = c
			return errors.Join(c.SetReadBuffer(receiveBuffer), c.SetWriteBuffer(receiveBuffer))
		}))
		return err
	})
	if err != nil {
		return err
	}
	if k.nft != nil {
		_ = k.nft.CloseLasting() // nothing is asked by it any more
	}
	k.nft, k.nftConn = nft, conn
	return nil
}

// eachElement calls change with the elements of one family's sets, perMessage at a time.
func eachElement(f family, cluster []netip.Prefix, nodes, endpoints []netip.Addr, change func(*nftables.Set, []nftables.SetElement) error) (err error) {
	for chunk := range slices.Chunk(intervals(f, cluster), perMessage) {
		err = errors.Join(err, change(f.clusterSet(), chunk))
	}
	for set, addrs := range map[*nftables.Set][]netip.Addr{f.nodesSet(): nodes, f.endpointsSet(): endpoints} {
		for chunk := range slices.Chunk(addrs, perMessage) {
			if elements := singles(f, chunk); len(elements) > 0 {
				err = errors.Join(err, change(set, elements))
			}
		}
	}
	return err
}

// changeSets changes elements of our sets in one transaction, deletions first.
func (k *Kernel) changeSets(c plan.SetChange) error {
	for _, f := range families {
		err := errors.Join(
			eachElement(f, c.DeleteCluster, c.DeleteNodes, c.DeleteEndpoints, k.nft.SetDeleteElements),
			eachElement(f, c.AddCluster, c.AddNodes, c.AddEndpoints, k.nft.SetAddElements),
		)
		if err != nil {
			return k.abandon(err)
		}
	}
	return k.flush(changed(k.masquerade, c))
}

// changed returns the table after a change of its sets.
func changed(m *topology.Masquerade, c plan.SetChange) *topology.Masquerade {
	after := *m
	if len(c.DeleteCluster)+len(c.AddCluster) > 0 {
		cluster, _ := topology.Splice(m.Cluster, c.DeleteCluster, c.AddCluster, topology.ComparePrefix)
		after.Cluster = topology.Outermost(cluster)
	}
	after.Nodes, _ = topology.Splice(m.Nodes, c.DeleteNodes, c.AddNodes, netip.Addr.Compare)
	after.Endpoints, _ = topology.Splice(m.Endpoints, c.DeleteEndpoints, c.AddEndpoints, netip.Addr.Compare)
	return &after
}

func (k *Kernel) deleteTable() error {
	k.nft.AddTable(nftTable)
	k.nft.DelTable(nftTable)
	return k.flush(nil)
}

// intervals returns prefixes as pairs of the first element and the one past the last. The topmost
// prefix has no element past the last.
func intervals(f family, prefixes []netip.Prefix) []nftables.SetElement {
	var elements []nftables.SetElement
	for _, p := range prefixes {
		if p.Addr().Is4() != f.is4 {
			continue
		}
		elements = append(elements, nftables.SetElement{Key: p.Masked().Addr().AsSlice()})
		if end := topology.Last(p).Next(); end.IsValid() {
			elements = append(elements, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return elements
}

func singles(f family, addrs []netip.Addr) []nftables.SetElement {
	var elements []nftables.SetElement
	for _, a := range addrs {
		if a.Is4() == f.is4 {
			elements = append(elements, nftables.SetElement{Key: a.AsSlice()})
		}
	}
	return elements
}
