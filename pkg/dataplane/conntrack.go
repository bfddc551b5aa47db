package dataplane

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	rtnl "github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// releaseNew deletes the NAT bindings of flows to destinations that are no longer masqueraded,
// because a binding outlives its rule. It reads all of conntrack, so it unlocks the Kernel for
// notifications meanwhile.
func (k *Kernel) releaseNew() error {
	m := k.masquerade
	if m == nil || len(m.Sources) == 0 {
		return nil
	}
	destinations, _ := plan.DiffSorted(m.Cluster, k.covered, topology.ComparePrefix)
	if len(destinations) == 0 {
		return nil
	}
	k.mu.Unlock()
	defer k.mu.Lock()
	return k.release(m.Sources, destinations)
}

// cover remembers which destinations are not masqueraded. Without the table no destination is
// masqueraded, so its deletion changes nothing.
func (k *Kernel) cover(m *topology.Masquerade) {
	if m != nil && len(m.Sources) > 0 {
		k.covered = m.Cluster
	}
}

// release deletes bindings. Flows by way of a Service keep theirs, because kube-proxy might choose
// another pod for the rest of the flow.
func (k *Kernel) release(sources, destinations []netip.Prefix) (err error) {
	conntrack := newSocket(k.namespace, unix.NETLINK_NETFILTER)
	defer func() { err = errors.Join(err, conntrack.close()) }()
	bindings, err := bindings(conntrack, sources, destinations)
	switch {
	case err == nil, errors.Is(err, rtnl.ErrDumpInterrupted): // changes during the dump are newer than the rule
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL): // without ctnetlink, bindings can't be seen
	default:
		return fmt.Errorf("reading NAT bindings: %w", err)
	}
	for batch := range slices.Chunk(bindings, perSend) {
		for _, err := range conntrack.acknowledge(batch) {
			if err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("forgetting a NAT binding: %w", err)
			}
		}
	}
	return nil
}

const (
	conntrackGet    = unix.NFNL_SUBSYS_CTNETLINK<<8 | nl.IPCTNL_MSG_CT_GET
	conntrackDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | nl.IPCTNL_MSG_CT_DELETE
)

// bindings returns the requests that delete entries of both families. Their data is what the kernel
// sent, which it accepts back. Of a table of a million, nothing else is kept.
func bindings(conntrack *socket, sources, destinations []netip.Prefix) ([]request, error) {
	var found []request
	header := []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0} // struct nfgenmsg
	err := conntrack.dump(conntrackGet, header, func(_ uint16, data []byte) {
		f, ok := parseFlow(data)
		if ok && f.masqueraded() && contains(sources, f.from) && contains(destinations, f.to) {
			found = append(found, request{kind: conntrackDelete, data: bytes.Clone(data)})
		}
	})
	return found, err
}

// A flow has the addresses of its first packet, and those of the reply, which are the addresses on
// the wire.
type flow struct{ from, to, replyFrom, replyTo netip.Addr }

// masqueraded reports whether only the source address of the flow is translated.
func (f flow) masqueraded() bool { return f.replyTo != f.from && f.replyFrom == f.to }

// parseFlow parses struct nfgenmsg and its attributes.
func parseFlow(b []byte) (f flow, ok bool) {
	whole := eachAttribute(b[min(len(b), nfgenmsg):], func(kind uint16, value []byte) {
		switch kind {
		case nl.CTA_TUPLE_ORIG:
			f.from, f.to = parseTuple(value)
		case nl.CTA_TUPLE_REPLY:
			f.replyFrom, f.replyTo = parseTuple(value)
		}
	})
	return f, whole && f.from.IsValid() && f.replyTo.IsValid()
}

func parseTuple(tuple []byte) (src, dst netip.Addr) {
	eachAttribute(attribute(tuple, nl.CTA_TUPLE_IP), func(kind uint16, value []byte) {
		switch kind {
		case nl.CTA_IP_V4_SRC, nl.CTA_IP_V6_SRC:
			src, _ = netip.AddrFromSlice(value)
		case nl.CTA_IP_V4_DST, nl.CTA_IP_V6_DST:
			dst, _ = netip.AddrFromSlice(value)
		}
	})
	return src, dst
}

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}
