package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/plainroute/plainroute/test/nodelab"
)

// lab is the cluster and the one machine with an agent.
type lab struct {
	opts       options
	cluster    *nodelab.Cluster
	during     string // the condition during the repairs, for the figures' names
	client     *kubernetes.Clientset
	kubeconfig string
	machine    *nodelab.Node
	link       *netlink.Handle // in the machine's namespace
	routes     *routeWatch
	agent      *agent
}

func newLab(ctx context.Context, opts options) (*lab, error) {
	c, err := nodelab.Start(ctx, opts.Config)
	if err != nil {
		return nil, err
	}
	l := &lab{opts: opts, cluster: c, kubeconfig: kubeconfig(opts.Dir, nodelab.AgentUser)}
	user := "admin"
	if opts.Fake {
		user = nodelab.AgentUser // the only one
	}
	if l.client, err = protobufClient(kubeconfig(opts.Dir, user)); err != nil {
		return nil, err
	}
	if err := giveAddresses("lan0", l.addresses(routerIndex)); err != nil {
		return nil, err
	}
	l.machine, err = c.NewNode(1)
	return l, err
}

// kubeconfig is where package nodelab writes the kubeconfig of a user.
func kubeconfig(dir, user string) string { return filepath.Join(dir, user+".kubeconfig") }

// protobufClient doesn't throttle: it has to make thousands of Nodes in seconds.
func protobufClient(kubeconfig string) (*kubernetes.Clientset, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading the administrator's kubeconfig: %w", err)
	}
	config.QPS = -1
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	return client, nil
}

// freshMachine makes a new machine with an empty table, and moves it to the LAN that is large
// enough.
func (l *lab) freshMachine() error {
	if l.link != nil {
		l.link.Close()
		l.routes.close()
	}
	if err := l.machine.Reboot(); err != nil {
		return err
	}
	err := l.machine.Do(func() (err error) {
		if l.link, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return fmt.Errorf("opening netlink: %w", err)
		}
		l.routes, err = watchRoutes()
		return err
	})
	if err != nil {
		return fmt.Errorf("entering the machine: %w", err)
	}
	return l.moveToLAN()
}

// moveToLAN replaces the addresses of package nodelab, and with them their routes, by ours.
func (l *lab) moveToLAN() error {
	eth0, err := l.link.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("finding the NIC: %w", err)
	}
	addrs, err := l.link.AddrList(eth0, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("listing addresses: %w", err)
	}
	for _, addr := range addrs {
		if addr.IP.IsLinkLocalUnicast() {
			continue
		}
		if err := l.link.AddrDel(eth0, &addr); err != nil {
			return fmt.Errorf("removing %s: %w", addr.IPNet, err)
		}
	}
	return l.configure()
}

// configure acts as a machine's network manager when the link is up: it adds addresses and the default route.
func (l *lab) configure() error {
	return l.machine.Do(func() error {
		if err := giveAddresses("eth0", l.addresses(ownIndex)); err != nil {
			return err
		}
		for _, gateway := range l.addresses(routerIndex) {
			if err := netlink.RouteReplace(&netlink.Route{Gw: gateway.Addr().AsSlice()}); err != nil {
				return fmt.Errorf("adding the default route: %w", err)
			}
		}
		return nil
	})
}

// giveAddresses gives addresses to a link of the thread's namespace.
func giveAddresses(device string, addresses []netip.Prefix) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return fmt.Errorf("finding %s: %w", device, err)
	}
	for _, a := range addresses {
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}}
		if a.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrReplace(link, addr); err != nil {
			return fmt.Errorf("giving %s to %s: %w", a, device, err)
		}
	}
	return nil
}
