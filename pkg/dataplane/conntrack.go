package dataplane

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

// releaseNew forgets the bindings of flows that were masqueraded on their way to
// destinations which, since now, see a pod's own address: a binding outlives the
// rule that made it. It reads all of conntrack, so news need not wait for it.
func (k *Kernel) releaseNew() error {
	m := k.masquerade
	if m == nil || len(m.Sources) == 0 {
		return nil
	}
	destinations := without(m.Cluster, k.covered)
	if len(destinations) == 0 {
		return nil
	}
	k.mu.Unlock()
	defer k.mu.Lock()
	return release(m.Sources, destinations)
}

// cover remembers which destinations see pods' own addresses. While the table is
// away nothing is masqueraded, so nothing becomes new by that.
func (k *Kernel) cover(m *topology.Masquerade) {
	if m != nil && len(m.Sources) > 0 {
		k.covered = m.Cluster
	}
}

// release forgets bindings. Who was reached by way of a Service keeps its binding,
// for kube-proxy might choose another pod for what goes on.
func release(sources, destinations []netip.Prefix) (err error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{MessageBufferSize: messageBuffer})
	if err != nil {
		return fmt.Errorf("forgetting NAT bindings: %w", err)
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		bindings, err := bindings(c, family, sources, destinations)
		// Without ctnetlink, bindings can't be seen.
		if err != nil && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("reading NAT bindings: %w", err)
		}
		for _, entry := range bindings {
			_, err := c.Execute(netlink.Message{
				Header: netlink.Header{Type: conntrackDelete, Flags: netlink.Request | netlink.Acknowledge}, Data: entry,
			})
			if err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("forgetting a NAT binding: %w", err)
			}
		}
	}
	return nil
}

// Of linux/netfilter/nfnetlink_conntrack.h.
const (
	conntrackGet    = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1
	conntrackDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2

	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaTupleIP    = 1
	ctaV4Src      = 1
	ctaV4Dst      = 2
	ctaV6Src      = 3
	ctaV6Dst      = 4
)

// bindings returns the entries to be forgotten, as the kernel sent them, which is how
// it takes them back. Of a table of a million, no more is kept. What changes during
// the look is younger than the rule, so a dump need not be whole.
func bindings(c *netlink.Conn, family byte, sources, destinations []netip.Prefix) ([][]byte, error) {
	_, err := c.Send(netlink.Message{
		Header: netlink.Header{Type: conntrackGet, Flags: netlink.Request | netlink.Dump},
		Data:   []byte{family, unix.NFNETLINK_V0, 0, 0}, // struct nfgenmsg
	})
	if err != nil {
		return nil, err
	}
	var found [][]byte
	for m, err := range c.ReceiveIter() {
		if err != nil {
			return nil, err
		}
		if f, ok := parseFlow(m.Data); ok && f.masqueraded() && contains(sources, f.from) && contains(destinations, f.to) {
			found = append(found, bytes.Clone(m.Data))
		}
	}
	return found, nil
}

// A flow has the addresses of its first packet, and of the reply to it, which tells
// what is on the wire.
type flow struct{ from, to, replyFrom, replyTo netip.Addr }

// masqueraded tells whether the flow has another source address on the wire than its
// own, and no other destination.
func (f flow) masqueraded() bool { return f.replyTo != f.from && f.replyFrom == f.to }

// parseFlow reads struct nfgenmsg and its attributes.
func parseFlow(b []byte) (f flow, ok bool) {
	const header = 4
	if len(b) < header {
		return f, false
	}
	attrs, err := netlink.NewAttributeDecoder(b[header:])
	if err != nil {
		return f, false
	}
	for attrs.Next() {
		switch attrs.Type() {
		case ctaTupleOrig:
			f.from, f.to = parseTuple(attrs)
		case ctaTupleReply:
			f.replyFrom, f.replyTo = parseTuple(attrs)
		}
	}
	return f, attrs.Err() == nil && f.from.IsValid() && f.replyTo.IsValid()
}

func parseTuple(attrs *netlink.AttributeDecoder) (src, dst netip.Addr) {
	attrs.Nested(func(tuple *netlink.AttributeDecoder) error {
		for tuple.Next() {
			if tuple.Type() != ctaTupleIP {
				continue
			}
			tuple.Nested(func(ip *netlink.AttributeDecoder) error {
				for ip.Next() {
					switch ip.Type() {
					case ctaV4Src, ctaV6Src:
						src, _ = netip.AddrFromSlice(ip.Bytes())
					case ctaV4Dst, ctaV6Dst:
						dst, _ = netip.AddrFromSlice(ip.Bytes())
					}
				}
				return nil
			})
		}
		return nil
	})
	return src, dst
}

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}
