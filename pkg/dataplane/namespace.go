package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A namespace is the network namespace of the thread that opened it. A socket stays in the
// namespace in which it was made, so its replacement has to be made there too, on any thread.
type namespace struct{ file *os.File }

func openNamespace() (*namespace, error) {
	// /proc/self has the namespace of the process's first thread.
	file, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("opening the network namespace: %w", err)
	}
	return &namespace{file}, nil
}

func (n *namespace) close() error {
	if n == nil {
		return nil
	}
	return n.file.Close()
}

// do calls f on a thread in the namespace. In the agent all threads are in it; to enter it from
// another namespace takes CAP_SYS_ADMIN.
func (n *namespace) do(f func() error) error {
	runtime.LockOSThread()
	here, err := openNamespace()
	if err == nil {
		defer here.file.Close()
		err = n.enter(here)
	}
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	err = f()
	back := here.enter(n)
	if back == nil { // else the thread stays locked, so that it ends with its goroutine
		runtime.UnlockOSThread()
	}
	return errors.Join(err, back)
}

// enter moves this thread into the namespace if it is in another one.
func (n *namespace) enter(from *namespace) error {
	to, err := n.file.Stat()
	at, errAt := from.file.Stat()
	if err = errors.Join(err, errAt); err == nil && !os.SameFile(to, at) {
		err = unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET)
	}
	if err != nil {
		return fmt.Errorf("entering a network namespace: %w", err)
	}
	return nil
}

// A Conn reads from the kernel in one network namespace, for pkg/inspect. It is safe for concurrent
// use, because doctor runs its checks at the same time.
type Conn struct {
	namespace *namespace
	mu        sync.Mutex // guards the socket
	rtnetlink *socket
}

// OpenConn returns a Conn to the network namespace of the thread that calls it. It opens its socket
// at the first request.
func OpenConn() (*Conn, error) {
	namespace, err := openNamespace()
	if err != nil {
		return nil, err
	}
	return &Conn{namespace: namespace, rtnetlink: newSocket(namespace, unix.NETLINK_ROUTE)}, nil
}

// Close closes the socket and the namespace.
func (c *Conn) Close() error {
	return errors.Join(c.rtnetlink.close(), c.namespace.close())
}

// Do calls f on a thread in the namespace.
func (c *Conn) Do(f func() error) error { return c.namespace.do(f) }

// Get sends a request of type RTM_GET* and calls f with each message of the answer, whose data is
// valid during the call. The error is rtnl.ErrDumpInterrupted if the kernel's table changed during
// a dump (NLM_F_DUMP). f must not use the Conn.
func (c *Conn) Get(kind, flags uint16, data []byte, f func(kind uint16, data []byte)) error {
	const get = 2 // RTNL_KIND_GET of linux/rtnetlink.h
	if kind%4 != get {
		return fmt.Errorf("sending a netlink message of type %d: only reads are allowed", kind)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rtnetlink.read(request{kind, flags, data}, f)
}

// Addrs returns the addresses of all devices in the network namespace that this one refers to by an
// ID, IPv4 ones first and without link-local ones. The error is rtnl.ErrDumpInterrupted if one
// changed meanwhile.
func (c *Conn) Addrs(namespace int) ([]netip.Addr, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return addrsIn(c.rtnetlink, namespace, 0)
}

// ProbeNeighbor makes the kernel ask a neighbor whether it is still there, once a second and three
// times in all (arp(7): ucast_solicit, retrans_time). Packets go to its last MAC address meanwhile.
// The call needs CAP_NET_ADMIN and fails for an address that is not in the neighbor table.
func ProbeNeighbor(handle *rtnl.Handle, link int, addr netip.Addr) error {
	return handle.NeighSet(&rtnl.Neigh{LinkIndex: link, IP: addr.AsSlice(), State: unix.NUD_PROBE})
}
