package netlab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync/atomic"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is a network namespace with a name that `ip netns exec` accepts.
type Namespace struct {
	Name string

	fd   netns.NsHandle
	link *netlink.Handle
	// lastEcho numbers the pings from here: raw sockets of one namespace get each other's answers.
	lastEcho atomic.Uint32
}

// NewNamespace makes a network namespace whose loopback is up.
func NewNamespace(name string) (*Namespace, error) {
	made := make(chan error, 1)
	var fd netns.NsHandle
	go func() {
		// Never unlocked: the thread stays behind in the new namespace, so it has to end with this goroutine.
		runtime.LockOSThread()
		var err error
		fd, err = netns.NewNamed(name)
		made <- err
	}()
	if err := <-made; err != nil {
		return nil, fmt.Errorf("making network namespace %s: %w", name, err)
	}
	return openNamespace(name, fd)
}

// Own opens the namespace that this process itself is in.
func Own() (*Namespace, error) {
	fd, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("opening our own network namespace: %w", err)
	}
	return openNamespace("lan", fd)
}

func openNamespace(name string, fd netns.NsHandle) (*Namespace, error) {
	link, err := netlink.NewHandleAt(fd, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening netlink in namespace %s: %w", name, err)
	}
	n := &Namespace{Name: name, fd: fd, link: link}
	if err := n.settle(); err != nil {
		return nil, err
	}
	return n, nil
}

// settle brings the loopback up and turns duplicate address detection off, which delays each IPv6 address by a second or
// two and has nothing to find on this LAN.
func (n *Namespace) settle() error {
	for _, which := range []string{"all", "default"} {
		if err := n.Sysctl("net/ipv6/conf/"+which+"/accept_dad", "0"); err != nil {
			return err
		}
	}
	return n.up("lo")
}

// Path returns where the namespace is mounted, as CNI plugins expect it.
func (n *Namespace) Path() string { return "/run/netns/" + n.Name }

// Handle returns the netlink handle of the namespace.
func (n *Namespace) Handle() *netlink.Handle { return n.link }

// NFT opens nf_tables of the namespace.
func (n *Namespace) NFT() (*nftables.Conn, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(int(n.fd)))
	if err != nil {
		return nil, fmt.Errorf("opening nf_tables in namespace %s: %w", n.Name, err)
	}
	return conn, nil
}

// Enter moves the calling thread into the namespace for good. The caller has locked the thread and throws it away.
func (n *Namespace) Enter() error {
	if err := netns.Set(n.fd); err != nil {
		return fmt.Errorf("entering network namespace %s: %w", n.Name, err)
	}
	return nil
}

// Do runs fn on a thread that is in the namespace. Sockets that fn opens and processes that fn starts stay in the
// namespace; goroutines that fn starts don't.
func (n *Namespace) Do(fn func() error) error {
	done := make(chan error, 1)
	go func() { done <- n.visit(fn) }()
	return <-done
}

func (n *Namespace) visit(fn func() error) error {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		return fmt.Errorf("opening the thread's network namespace: %w", err)
	}
	defer home.Close()
	if err := n.Enter(); err != nil {
		return err
	}
	err = fn()
	// A thread that can't get home is not given back: it ends with this goroutine.
	if netns.Set(home) == nil {
		runtime.UnlockOSThread()
	}
	return err
}

// DoForever runs steps, until one fails, on a thread in the namespace that is thrown away afterwards: a step may change
// the thread in a way that can't be undone.
func (n *Namespace) DoForever(steps ...func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := n.Enter()
		for _, step := range steps {
			if err == nil {
				err = step()
			}
		}
		done <- err
	}()
	return <-done
}

// DoWithout runs fn on a thread that, with all that it starts, has lost a capability (of linux/capability.h) for good: a
// capability can't be put back into the bounding set.
func (n *Namespace) DoWithout(capability uintptr, fn func() error) error {
	return n.DoForever(func() error {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil {
			return fmt.Errorf("dropping capability %d: %w", capability, err)
		}
		return nil
	}, fn)
}

// Dial connects from inside the namespace. The address has to be literal: a resolver would run on other threads.
func (n *Namespace) Dial(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	var conn net.Conn
	err := n.Do(func() (err error) {
		var dialer net.Dialer
		if strings.HasPrefix(network, "udp") {
			conn, err = dialer.DialUDP(ctx, network, netip.AddrPort{}, to)
			return err
		}
		conn, err = dialer.DialTCP(ctx, network, netip.AddrPort{}, to)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("connecting to %s from %s: %w", to, n.Name, err)
	}
	return conn, nil
}

// Sysctl writes a setting of the namespace; key is its path below /proc/sys.
func (n *Namespace) Sysctl(key, value string) error {
	return n.Do(func() error {
		if err := os.WriteFile("/proc/sys/"+key, []byte(value), 0); err != nil {
			return fmt.Errorf("setting %s in %s: %w", key, n.Name, err)
		}
		return nil
	})
}

// Close releases the namespace. The kernel keeps it for as long as a socket or process is in it.
func (n *Namespace) Close() error {
	n.link.Close()
	if err := n.fd.Close(); err != nil {
		return fmt.Errorf("closing network namespace %s: %w", n.Name, err)
	}
	if err := netns.DeleteNamed(n.Name); err != nil {
		return fmt.Errorf("removing network namespace %s: %w", n.Name, err)
	}
	return nil
}
