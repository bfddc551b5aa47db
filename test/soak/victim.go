package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/plainroute/plainroute/test/inject"
	"github.com/plainroute/plainroute/test/netlab"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// peers is how many other Nodes there are.
const peers = 6

// victim is the node that all is done to.
type victim struct {
	cluster *nodelab.Cluster
	node    *nodelab.Node
	peers   []*nodelab.Node
	gate    *inject.Gate
	link    *netlink.Handle
	eth0    netlink.Link
	foreign []string
	away    map[int]bool // peers whose Node is deleted just now
	shut    bool         // the way to the API server
}

// start runs the agent and makes the objects that faults need.
func (v *victim) start(ctx context.Context) error {
	v.away = map[int]bool{}
	var err error
	if v.gate, err = inject.NewGate(v.cluster, 7001); err != nil {
		return err
	}
	if err := v.gate.Open(); err != nil {
		return err
	}
	if err := v.node.StartAgent(nodelab.AgentOptions{Kubeconfig: v.gate.Kubeconfig()}); err != nil {
		return err
	}
	if err := v.node.WaitReady(ctx); err != nil {
		return err
	}
	if _, err := v.node.AddPod(ctx, "a"); err != nil {
		return err
	}
	err = v.node.Do(func() (err error) {
		v.link, err = netlink.NewHandle(syscall.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return fmt.Errorf("opening netlink in %s: %w", v.node.Name, err)
	}
	if v.eth0, err = v.link.LinkByName("eth0"); err != nil {
		return fmt.Errorf("finding eth0 of %s: %w", v.node.Name, err)
	}
	v.foreign, err = v.node.ForeignRoutes()
	return err
}

// recover restores what a host's own services would, and waits until all is as it should be.
func (v *victim) recover(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := v.open(); err != nil {
		return err
	}
	for i := range v.peers {
		if err := v.comeBack(ctx, i); err != nil {
			return err
		}
	}
	if err := v.configure(); err != nil {
		return err
	}
	if err := v.node.WaitReady(ctx); err != nil {
		return err
	}
	for _, peer := range v.peers {
		if err := v.node.AwaitRoute(ctx, peer.Subnets...); err != nil {
			return err
		}
	}
	if _, err := v.node.CNIConfig(); err != nil {
		return err
	}
	foreign, err := v.node.ForeignRoutes()
	if err == nil && !slices.Equal(foreign, v.foreign) {
		return fmt.Errorf("foreign routes changed:\n%s\nwas\n%s", strings.Join(foreign, "\n"), strings.Join(v.foreign, "\n"))
	}
	return err
}

// configure brings the link up with its addresses and default routes, as far as they are gone.
func (v *victim) configure() error {
	if err := v.link.LinkSetUp(v.eth0); err != nil {
		return fmt.Errorf("bringing eth0 up: %w", err)
	}
	for _, addr := range v.node.Addrs() {
		bits, gateway, all := 24, netlab.Router4, netip.MustParsePrefix("0.0.0.0/0")
		if addr.Is6() {
			bits, gateway, all = 64, netlab.Router6, netip.MustParsePrefix("::/0")
		}
		given := &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, addr.BitLen())}}
		if err := v.link.AddrAdd(v.eth0, given); err != nil && !errors.Is(err, syscall.EEXIST) {
			return fmt.Errorf("giving eth0 %s: %w", addr, err)
		}
		if err := v.node.AddStaticRoute(all, gateway); err != nil && !errors.Is(err, syscall.EEXIST) {
			return err
		}
	}
	return nil
}

// ours lists the agent's routes, in no special order.
func (v *victim) ours() ([]netlink.Route, error) {
	for {
		routes, err := v.link.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: netlab.Protocol}, netlink.RT_FILTER_PROTOCOL)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return routes, err
		}
	}
}

// census is the agent's use of resources, by the names of its metrics.
type census map[string]float64

// gauges are compared: at the end each may be what it was, times a factor, plus a slack. Goroutines and descriptors
// come with connections to the API server and clients of the metrics page; a leak of one in a thousand faults is more.
var gauges = []struct {
	name, metric  string
	factor, slack float64
	unit          float64
	suffix        string
}{
	{"goroutines", "go_goroutines", 1, 4, 1, ""},
	{"file descriptors", "process_open_fds", 1, 2, 1, ""},
	{"heap in use", "go_memstats_heap_inuse_bytes", 1.25, 2 << 20, 1 << 10, "KiB"},
	{"resident memory", "process_resident_memory_bytes", 1.25, 4 << 20, 1 << 10, "KiB"},
}

// rest is how long the agent is left alone before a census, with a look each second: the least of what is seen counts,
// since the heap grows until the collector runs.
const rest = 45 * time.Second

func (v *victim) census(ctx context.Context) (census, error) {
	least := census{}
	say("leaving the agent alone for %s", rest)
	for end := time.Now().Add(rest); time.Now().Before(end); {
		if err := testutil.Pause(ctx, time.Second); err != nil {
			return nil, err
		}
		page, err := v.node.Metrics(ctx)
		if err != nil {
			return nil, err
		}
		for _, g := range gauges {
			value, err := read(page, g.metric)
			if err != nil {
				return nil, err
			}
			if now, seen := least[g.metric]; !seen || value < now {
				least[g.metric] = value
			}
		}
	}
	return least, nil
}

// read finds a metric without labels on a page.
func read(page, metric string) (float64, error) {
	for line := range strings.Lines(page) {
		if value, ok := strings.CutPrefix(line, metric+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("the metrics page has no %s", metric)
}
