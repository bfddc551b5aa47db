package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

// A Guest is another network namespace that this one is or was connected with, such as a pod's.
type Guest struct {
	// ID is the number by which this namespace knows it. The kernel gives it to another once it is gone.
	ID int
	// Ports are the indexes of the veths that lead to it, in whatever bridge they are. There are none if
	// its cable is gone.
	Ports []int
	// Addrs are the addresses of all its devices, without loopback and link-local ones. A namespace that
	// can't be looked into has none.
	Addrs []netip.Addr
	// Foreign is set if it is no pod of the bridge's: a port has an address of its own here, so that it
	// leads to this host's neighbors (a node of kind), or all are in other bridges.
	Foreign bool
}

// Guests returns all such namespaces, seen from the given bridge. To look into them it needs
// CAP_NET_ADMIN, and Linux 4.20.
func (i *Inspector) Guests(bridge string) ([]Guest, error) {
	// The kernel numbers a namespace at the latest when it lists a port that leads there.
	links, err := retryDump(i.handle.LinkList)
	if err != nil {
		return nil, fmt.Errorf("listing links: %w", err)
	}
	addrs, err := retryDump(func() ([]rtnl.Addr, error) { return i.handle.AddrList(nil, rtnl.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("listing addresses: %w", err)
	}
	ids, err := i.namespaces()
	if err != nil {
		return nil, fmt.Errorf("listing network namespaces: %w", err)
	}
	ports, foreign := guestPorts(links, addrs, bridge)
	var guests, doubtful []Guest
	for _, id := range ids {
		g := Guest{ID: id, Ports: ports[id], Foreign: foreign[id]}
		g.Addrs, err = i.addrsOf(id)
		if errors.Is(err, unix.EINVAL) { // as of one that is gone (rtnl_get_net_ns_capable of net/core/rtnetlink.c)
			doubtful = append(doubtful, g)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("listing addresses in network namespace %d: %w", id, err)
		}
		guests = append(guests, g)
	}
	there, err := i.stillThere(doubtful)
	return append(guests, there...), err
}

// guestPorts returns the veths that lead to each namespace, and which namespaces are foreign to a bridge.
func guestPorts(links []rtnl.Link, addrs []rtnl.Addr, bridge string) (ports map[int][]int, foreign map[int]bool) {
	routed := map[int]bool{}
	for _, a := range addrs {
		routed[a.LinkIndex] = routed[a.LinkIndex] || !a.IP.IsLinkLocalUnicast()
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
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

// stillThere returns the namespaces that the kernel knows in spite of its answer. Nothing is known of
// their addresses, which is not the same as that they are gone.
func (i *Inspector) stillThere(doubtful []Guest) ([]Guest, error) {
	if len(doubtful) == 0 {
		return nil, nil
	}
	ids, err := i.namespaces()
	if err != nil {
		return nil, fmt.Errorf("listing network namespaces again: %w", err)
	}
	return slices.DeleteFunc(doubtful, func(g Guest) bool { return !slices.Contains(ids, g.ID) }), nil
}

// namespaces returns the numbers of those that this one knows (rtnl_net_dumpid of
// net/core/net_namespace.c, which does not mark a dump that a change interrupted).
func (i *Inspector) namespaces() ([]int, error) {
	var ids []int
	_, err := i.rtnetlink.read(request{kind: unix.RTM_GETNSID, flags: unix.NLM_F_DUMP, data: make([]byte, rtgenHeader)}, func(kind uint16, data []byte) {
		if id, ok := parseNamespace(kind, data); ok {
			ids = append(ids, id)
		}
	})
	return ids, err
}

// rtgenHeader is the size of struct rtgenmsg, padded.
const rtgenHeader = 4

// parseNamespace reads the number of a network namespace.
func parseNamespace(kind uint16, b []byte) (id int, ok bool) {
	if kind != unix.RTM_NEWNSID {
		return 0, false
	}
	eachAttribute(b[min(len(b), rtgenHeader):], func(kind uint16, value []byte) {
		if kind == unix.NETNSA_NSID && len(value) == 4 {
			id, ok = int(int32(binary.NativeEndian.Uint32(value))), true
		}
	})
	return id, ok
}

func (i *Inspector) addrsOf(namespace int) ([]netip.Addr, error) {
	return retryDump(func() ([]netip.Addr, error) {
		all, whole, err := addrsIn(i.rtnetlink, namespace, 0)
		if err := interrupted(whole, err); err != nil && !hides(err) {
			return nil, err
		}
		var addrs []netip.Addr
		for _, addr := range all {
			if !addr.IsLoopback() {
				addrs = append(addrs, addr)
			}
		}
		return addrs, nil
	})
}

// hides reports whether the kernel does not show addresses: the namespace is of another user namespace, or
// the kernel lacks a family.
func hides(err error) bool {
	return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)
}

// interrupted returns the error of a dump, also of one that is not whole, because a change interrupted it.
func interrupted(whole bool, err error) error {
	if err == nil && !whole {
		return rtnl.ErrDumpInterrupted
	}
	return err
}
