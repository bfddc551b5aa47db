package dataplane

import (
	"errors"
	"fmt"
	"net/netip"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A Conn reads from the kernel in one network namespace, for pkg/inspect. It can't be used by two
// goroutines at once.
type Conn struct {
	namespace *namespace
	rtnetlink *socket
}

// OpenConn returns a Conn to the network namespace of the thread that calls it. It opens its socket
// at the first request.
func OpenConn() (*Conn, error) {
	namespace, err := openNamespace()
	if err != nil {
		return nil, err
	}
	return &Conn{namespace, newSocket(namespace, unix.NETLINK_ROUTE)}, nil
}

// Close closes the socket and the namespace.
func (c *Conn) Close() error {
	return errors.Join(c.rtnetlink.close(), c.namespace.close())
}

// Do calls f on a thread in the namespace.
func (c *Conn) Do(f func() error) error { return c.namespace.do(f) }

// Get sends a request of type RTM_GET* and calls f with each message of the answer. With
// NLM_F_DUMP, whole is false if the kernel's table changed during the dump. The data is valid
// during the call.
func (c *Conn) Get(kind, flags uint16, data []byte, f func(kind uint16, data []byte)) (whole bool, err error) {
	const get = 2 // RTNL_KIND_GET of linux/rtnetlink.h
	if kind%4 != get {
		return false, fmt.Errorf("sending a netlink message of type %d: only reads are allowed", kind)
	}
	return c.rtnetlink.read(request{kind, flags, data}, f)
}

// Addrs returns the addresses of all devices in the network namespace that this one refers to by an
// ID, IPv4 ones first and without link-local ones. They are not whole if one changed during the
// dump.
func (c *Conn) Addrs(namespace int) (addrs []netip.Addr, whole bool, err error) {
	return addrsIn(c.rtnetlink, namespace, 0)
}

// ProbeNeighbor makes the kernel ask a neighbor whether it is still there, once a second and three
// times in all (arp(7): ucast_solicit, retrans_time). Packets go to its last MAC address meanwhile.
// The call needs CAP_NET_ADMIN and fails for an address that is not in the neighbor table.
func ProbeNeighbor(handle *rtnl.Handle, link int, addr netip.Addr) error {
	return handle.NeighSet(&rtnl.Neigh{LinkIndex: link, IP: addr.AsSlice(), State: unix.NUD_PROBE})
}
