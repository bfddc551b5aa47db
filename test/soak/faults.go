package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/netlab"
	"github.com/plainroute/plainroute/test/testutil"
)

// fault is something that happens to a node.
type fault struct {
	name string
	do   func(ctx context.Context, v *victim, random *rand.Rand) error
}

var allFaults = []fault{
	{"a route deleted", deleteOne},
	{"a route deleted", deleteOne},
	{"all of ours deleted", deleteAll},
	{"a route overwritten", overwrite},
	{"a foreign route in front of ours, and gone", foreignInFront},
	{"a next hop appended, and gone", appendHop},
	{"link down and up", flap},
	{"address removed and added back", readdress},
	{"the bridge's address removed", strip},
	{"the nftables table deleted", dropTable},
	{"ip_forward off", func(_ context.Context, v *victim, _ *rand.Rand) error {
		return v.node.Sysctl("net/ipv4/ip_forward", "0")
	}},
	{"CNI config deleted", func(_ context.Context, v *victim, _ *rand.Rand) error { return remove(v.conflist()) }},
	{"CNI config truncated", truncate},
	{"a Node deleted, or back", toggleNode},
	{"a Node deleted, or back", toggleNode},
	{"the API server away, or back", toggleGate},
	{"a client asks for the status", ask},
}

func (v *victim) conflist() string { return filepath.Join(v.node.ConfDir, "10-plainroute.conflist") }

// gone ignores a missing object: the fault before has deleted it.
func gone(err error) error {
	for _, harmless := range []error{syscall.ESRCH, syscall.ENOENT, syscall.EADDRNOTAVAIL, syscall.EEXIST, syscall.ENETUNREACH, syscall.EHOSTUNREACH} {
		if errors.Is(err, harmless) {
			return nil
		}
	}
	return err
}

func remove(path string) error { return gone(os.Remove(path)) }

func truncate(_ context.Context, v *victim, random *rand.Rand) error {
	return gone(os.Truncate(filepath.Join(v.node.RunDir, "10-plainroute.conflist"), random.Int64N(100)))
}

func deleteOne(_ context.Context, v *victim, random *rand.Rand) error {
	routes, err := v.ours()
	if err != nil || len(routes) == 0 {
		return err
	}
	return gone(v.link.RouteDel(&routes[random.IntN(len(routes))]))
}

func deleteAll(_ context.Context, v *victim, _ *rand.Rand) error {
	routes, err := v.ours()
	for _, r := range routes {
		err = errors.Join(err, gone(v.link.RouteDel(&r)))
	}
	return err
}

// ourMetric stands for the metric of our own route to a subnet.
const ourMetric = -1

// foreignRoute is a foreign route to a peer's subnet, by the router.
func (v *victim) foreignRoute(random *rand.Rand, metric int) *netlink.Route {
	subnet, gateway := v.peers[random.IntN(len(v.peers))].Subnets[random.IntN(2)], netlab.Router4
	if subnet.Addr().Is6() {
		gateway = netlab.Router6
	}
	if metric == ourMetric {
		metric = int(topology.PeerMetric(subnet))
	}
	return &netlink.Route{
		Dst: &net.IPNet{IP: subnet.Addr().AsSlice(), Mask: net.CIDRMask(subnet.Bits(), subnet.Addr().BitLen())},
		Gw:  gateway.AsSlice(), Priority: metric, Protocol: syscall.RTPROT_STATIC, LinkIndex: v.eth0.Attrs().Index,
	}
}

func overwrite(_ context.Context, v *victim, random *rand.Rand) error {
	r := v.foreignRoute(random, ourMetric)
	return errors.Join(gone(v.link.RouteReplace(r)), gone(v.link.RouteDel(r)))
}

func foreignInFront(ctx context.Context, v *victim, random *rand.Rand) error {
	r := v.foreignRoute(random, 10)
	if err := gone(v.link.RouteAdd(r)); err != nil {
		return err
	}
	return errors.Join(testutil.Pause(ctx, between), gone(v.link.RouteDel(r)))
}

func appendHop(ctx context.Context, v *victim, random *rand.Rand) error {
	r := v.foreignRoute(random, ourMetric)
	if err := gone(v.link.RouteAppend(r)); err != nil {
		return err
	}
	return errors.Join(testutil.Pause(ctx, between), gone(v.link.RouteDel(r)))
}

func flap(ctx context.Context, v *victim, _ *rand.Rand) error {
	if err := v.link.LinkSetDown(v.eth0); err != nil {
		return err
	}
	return errors.Join(testutil.Pause(ctx, between), v.configure())
}

func readdress(ctx context.Context, v *victim, random *rand.Rand) error {
	addrs, err := v.link.AddrList(v.eth0, []int{netlink.FAMILY_V4, netlink.FAMILY_V6}[random.IntN(2)])
	for _, a := range addrs {
		if !a.IP.IsLinkLocalUnicast() {
			err = errors.Join(err, gone(v.link.AddrDel(v.eth0, &a)))
		}
	}
	return errors.Join(err, testutil.Pause(ctx, between), v.configure())
}

func strip(_ context.Context, v *victim, _ *rand.Rand) error {
	bridge, err := v.link.LinkByName("plainroute0")
	if err != nil {
		return err
	}
	addrs, err := v.link.AddrList(bridge, netlink.FAMILY_V4)
	for _, a := range addrs {
		err = errors.Join(err, gone(v.link.AddrDel(bridge, &a)))
	}
	return err
}

func dropTable(_ context.Context, v *victim, _ *rand.Rand) error {
	return v.node.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		c.DelTable(&nftables.Table{Name: "plainroute", Family: nftables.TableFamilyINet})
		return gone(c.Flush())
	})
}

func toggleNode(ctx context.Context, v *victim, random *rand.Rand) error {
	i := random.IntN(len(v.peers))
	if v.away[i] {
		return v.comeBack(ctx, i)
	}
	v.away[i] = true
	return v.peers[i].Deregister(ctx)
}

func (v *victim) comeBack(ctx context.Context, i int) error {
	if !v.away[i] {
		return nil
	}
	delete(v.away, i)
	return v.peers[i].Register(ctx)
}

func toggleGate(_ context.Context, v *victim, _ *rand.Rand) error {
	if v.shut {
		return v.open()
	}
	v.gate.Shut()
	v.shut = true
	return nil
}

func (v *victim) open() error {
	if !v.shut {
		return nil
	}
	v.shut = false
	return v.gate.Open()
}

func ask(ctx context.Context, v *victim, _ *rand.Rand) error {
	if code, _, err := v.node.Get(ctx, "/status"); err != nil || code != 200 {
		return fmt.Errorf("/status: %d, %w", code, err)
	}
	return nil
}
