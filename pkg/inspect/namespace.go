package inspect

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/dataplane"
	"github.com/plainroute/plainroute/pkg/topology"
)

// A PeerNamespace is a network namespace that this one is or was connected with, such as a pod's.
type PeerNamespace struct {
	// ID is the ID of the namespace in this one. The kernel reuses it once the namespace is gone.
	ID int
	// Ports are the indexes of the veths that lead to it, whatever bridge they are in.
	Ports []int
	// Addrs are those of all its devices but loopback and link-local ones; none if it can't be read.
	Addrs []netip.Addr
	// Foreign is set if it is not a pod of the bridge: one of its ports has an address here, so
	// that it leads to this host's neighbors (a node of kind), or all ports are in other bridges.
	Foreign bool
}

// PeerNamespaces returns all; Foreign is relative to the bridge. Reading them needs CAP_NET_ADMIN.
func (i *Inspector) PeerNamespaces(bridge string) ([]PeerNamespace, error) {
	// The kernel assigns a namespace its ID at the latest when it lists a port that leads there.
	links, names, err := i.links()
	if err != nil {
		return nil, err
	}
	addrs, err := dataplane.RetryDump(func() ([]rtnl.Addr, error) { return i.handle.AddrList(nil, rtnl.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("listing addresses: %w", err)
	}
	ids, err := i.namespaceIDs()
	if err != nil {
		return nil, fmt.Errorf("listing network namespaces: %w", err)
	}
	ports, foreign := peerPorts(links, names, addrs, bridge)
	var found, doubtful []PeerNamespace
	for _, id := range ids {
		n := PeerNamespace{ID: id, Ports: ports[id], Foreign: foreign[id]}
		n.Addrs, err = i.addrsOf(id)
		switch {
		case errors.Is(err, unix.EINVAL): // of one that is gone (rtnl_get_net_ns_capable of net/core/rtnetlink.c)
			doubtful = append(doubtful, n)
		case err != nil:
			return nil, fmt.Errorf("listing addresses in network namespace %d: %w", id, err)
		default:
			found = append(found, n)
		}
	}
	listed, err := i.stillListed(doubtful)
	return append(found, listed...), err
}

// peerPorts returns the veths that lead to each namespace, and which ones are foreign to a bridge.
func peerPorts(links []rtnl.Link, names map[int]string, addrs []rtnl.Addr, bridge string) (ports map[int][]int, foreign map[int]bool) {
	routed := map[int]bool{}
	for _, a := range addrs {
		routed[a.LinkIndex] = routed[a.LinkIndex] || !a.IP.IsLinkLocalUnicast()
	}
	ports, foreign = map[int][]int{}, map[int]bool{}
	uplink, near := map[int]bool{}, map[int]bool{}
	for _, l := range links {
		a := l.Attrs()
		if a.NetNsID < 0 || l.Type() != topology.KindVeth {
			continue
		}
		ports[a.NetNsID] = append(ports[a.NetNsID], a.Index)
		uplink[a.NetNsID] = uplink[a.NetNsID] || routed[a.Index]
		near[a.NetNsID] = near[a.NetNsID] || a.MasterIndex == 0 || names[a.MasterIndex] == bridge
		foreign[a.NetNsID] = uplink[a.NetNsID] || !near[a.NetNsID]
	}
	return ports, foreign
}

// stillListed returns those that the kernel still lists: unreadable namespaces may be in use.
func (i *Inspector) stillListed(doubtful []PeerNamespace) ([]PeerNamespace, error) {
	if len(doubtful) == 0 {
		return nil, nil
	}
	ids, err := i.namespaceIDs()
	if err != nil {
		return nil, fmt.Errorf("listing network namespaces again: %w", err)
	}
	return slices.DeleteFunc(doubtful, func(n PeerNamespace) bool { return !slices.Contains(ids, n.ID) }), nil
}

// namespaceIDs returns those of rtnl_net_dumpid (net/core/net_namespace.c: interruptions are not marked).
func (i *Inspector) namespaceIDs() ([]int, error) {
	var ids []int
	err := i.conn.Get(unix.RTM_GETNSID, unix.NLM_F_DUMP, make([]byte, rtgenHeader), func(kind uint16, data []byte) {
		if id, ok := parseNamespaceID(kind, data); ok {
			ids = append(ids, id)
		}
	})
	return ids, err
}

// rtgenHeader is the size of struct rtgenmsg, padded.
const rtgenHeader = 4

func parseNamespaceID(kind uint16, b []byte) (id int, ok bool) {
	if kind != unix.RTM_NEWNSID {
		return 0, false
	}
	eachAttribute(b[min(len(b), rtgenHeader):], func(attrs *netlink.AttributeDecoder) {
		if attrs.Type() == unix.NETNSA_NSID && len(attrs.Bytes()) == 4 {
			id, ok = int(attrs.Int32()), true
		}
	})
	return id, ok
}

func (i *Inspector) addrsOf(namespace int) ([]netip.Addr, error) {
	return dataplane.RetryDump(func() ([]netip.Addr, error) {
		all, err := i.conn.Addrs(namespace)
		if err != nil && !hides(err) {
			return nil, err
		}
		return slices.DeleteFunc(all, netip.Addr.IsLoopback), nil
	})
}

// hides reports whether the kernel hides addresses, as of another user namespace, or lacks a family.
func hides(err error) bool {
	return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)
}
