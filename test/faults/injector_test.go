package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/inject"
	"github.com/plainroute/plainroute/test/netlab"
)

// injectors are used by the faults of the API server and of Nodes; each fault has those that it prepared.
type injectors struct {
	proxy *inject.Proxy
	gate  *inject.Gate
	clock *inject.Clock
	// joined are Node objects that came while the fault lasted; crowd those that were there before.
	joined, crowd []newcomer
	// watches see what happens to the routes of both nodes, tables what happens to the node's nftables.
	watches []*netlab.RouteWatch
	tables  *netlab.TableWatch
	// spare are unused addresses of the LAN.
	spare []netip.Addr
	// third is a machine that no agent has seen yet, and talks are request loops from the node's pod
	// to one of its pods.
	third *machine
	talks []*talk
	// plugins is the folder of the node's own CNI plugins.
	plugins string
}

// newcomer is a Node object without a machine.
type newcomer struct {
	inject.FakeNode
	subnets []netip.Prefix
}

// Ports of a lab's own ways to the API server: the node's number is added.
const (
	gatePort  = 7000
	proxyPort = 7500
)

// useProxy leads the node's agent to the API server by way of a proxy.
func (l *lab) useProxy() {
	l.t.Helper()
	var err error
	l.proxy, err = inject.NewProxy(l.pool.Cluster, proxyPort+l.node.Index)
	l.must(err)
	l.t.Cleanup(l.proxy.Close)
	l.options.Kubeconfig = l.proxy.Kubeconfig()
}

// useGate leads it there by way of a gate.
func (l *lab) useGate() {
	l.t.Helper()
	var err error
	l.gate, err = inject.NewGate(l.pool.Cluster, gatePort+l.node.Index)
	l.must(err)
	l.must(l.gate.Open())
	l.t.Cleanup(l.gate.Shut)
	l.options.Kubeconfig = l.gate.Kubeconfig()
}

// useClock gives it a clock of its own.
func (l *lab) useClock() {
	l.clock = &inject.Clock{}
	l.options.Start = l.clock.Start
}

// newcomers are Nodes that no agent has seen yet, with numbers of their own.
func (l *lab) newcomers(count int) []newcomer {
	var all []newcomer
	for range count {
		number := <-l.pool.numbers
		l.t.Cleanup(func() { l.pool.numbers <- number })
		one := newcomer{subnets: []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", number)),
			netip.MustParsePrefix(fmt.Sprintf("fd00:10:244:%d::/64", number)),
		}}
		one.Name = fmt.Sprintf("newcomer%d", number)
		one.PodCIDRs = []string{one.subnets[0].String(), one.subnets[1].String()}
		one.Addresses = []string{fmt.Sprintf("192.168.1.%d", 10+number), fmt.Sprintf("fd00:192:168:1::%d", 10+number)}
		all = append(all, one)
	}
	return all
}

// createNodes creates Node objects, which are deleted with the test at the latest.
func (l *lab) createNodes(fakes ...inject.FakeNode) {
	l.t.Helper()
	l.t.Cleanup(func() {
		if err := inject.DeleteNodesIfPresent(context.Background(), l.pool.Client(), fakes...); err != nil {
			l.t.Error(err)
		}
	})
	l.must(inject.CreateNodes(l.within(limit), l.pool.Client(), fakes...))
}

func fakesOf(all []newcomer) []inject.FakeNode {
	var fakes []inject.FakeNode
	for _, one := range all {
		fakes = append(fakes, one.FakeNode)
	}
	return fakes
}

// join lets one more Node join.
func (l *lab) join() {
	l.t.Helper()
	joined := l.newcomers(1)
	l.createNodes(fakesOf(joined)...)
	l.joined = append(l.joined, joined...)
}

// joinedRouted returns which routes the node lacks to the new Nodes, and what else is not as it
// was.
func (l *lab) joinedRouted() error {
	for _, one := range l.joined {
		for _, subnet := range one.subnets {
			if _, err := l.node.via(subnet); err != nil {
				return err
			}
		}
	}
	return l.checkOurs()
}

// route is the node's one route of ours to a subnet.
func (m *machine) route(subnet netip.Prefix) (netlink.Route, error) {
	family := netlink.FAMILY_V4
	if subnet.Addr().Is6() {
		family = netlink.FAMILY_V6
	}
	filter := &netlink.Route{Dst: ipNet(subnet), Table: unix.RT_TABLE_MAIN, Protocol: netlab.Protocol}
	routes, err := m.Handle().RouteListFiltered(family, filter,
		netlink.RT_FILTER_DST|netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return netlink.Route{}, fmt.Errorf("looking for the route to %s: %w", subnet, err)
	}
	if len(routes) != 1 {
		return netlink.Route{}, fmt.Errorf("%s has %d routes of ours to %s", m.Name, len(routes), subnet)
	}
	return routes[0], nil
}

// via is the next hop of the node's route of ours to a subnet, or the end of the tunnel into which it leads, or an error
// if there is no such route.
func (m *machine) via(subnet netip.Prefix) (netip.Addr, error) {
	route, err := m.route(subnet)
	if err != nil {
		return netip.Addr{}, err
	}
	to := route.Gw
	if link, err := m.Handle().LinkByIndex(route.LinkIndex); err == nil && isTunnel(link.Attrs().Name) {
		to, err = m.endOf(route.LinkIndex, subnet)
		if err != nil {
			return netip.Addr{}, err
		}
	}
	via, _ := netip.AddrFromSlice(to)
	return via.Unmap(), nil
}

// endOf is where a tunnel's FDB sends packets to the node with a subnet.
func (m *machine) endOf(tunnel int, subnet netip.Prefix) (net.IP, error) {
	entries, err := m.Handle().NeighList(tunnel, unix.AF_BRIDGE)
	if err != nil {
		return nil, fmt.Errorf("listing the FDB of %s: %w", m.Name, err)
	}
	for _, entry := range entries {
		if entry.HardwareAddr.String() == topology.TunnelMAC(subnet).String() {
			return entry.IP, nil
		}
	}
	return nil, fmt.Errorf("%s has no FDB entry for %s", m.Name, subnet)
}

// comesFrom returns an error if the node's routes to a peer prefer other sources than these.
func (m *machine) comesFrom(peer *machine, sources ...netip.Addr) error {
	for _, subnet := range peer.Subnets {
		route, err := m.route(subnet)
		if err != nil {
			return err
		}
		if source, _ := netip.AddrFromSlice(route.Src); !slices.Contains(sources, source.Unmap()) {
			return fmt.Errorf("the route of %s to %s has source %s; want %v", m.Name, subnet, source, sources)
		}
	}
	return nil
}

// goesVia returns an error if the node's routes to a peer lead to other addresses than these.
func (m *machine) goesVia(peer *machine, addresses ...netip.Addr) error {
	for _, subnet := range peer.Subnets {
		via, err := m.via(subnet)
		if err != nil {
			return err
		}
		if !slices.Contains(addresses, via) {
			return fmt.Errorf("the route of %s to %s is via %s; want %v", m.Name, subnet, via, addresses)
		}
	}
	return nil
}

// reports returns an error if the agent's /status lacks a problem about a Node: "" is any.
func (m *machine) reports(ctx context.Context, node string, reason problem.Reason) error {
	problems, err := m.problems(ctx)
	if err != nil {
		return err
	}
	for _, problem := range problems {
		if problem.Reason == reason && (node == "" || problem.Node == node) {
			return nil
		}
	}
	return fmt.Errorf("/status of %s has no %s about %q, but %v", m.Name, reason, node, problems)
}

// problems are those of the agent's /status.
func (m *machine) problems(ctx context.Context) ([]problem.Problem, error) {
	_, body, err := m.Get(ctx, "/status")
	if err != nil {
		return nil, err
	}
	var report struct {
		Problems []problem.Problem `json:"problems"`
	}
	if err := json.Unmarshal([]byte(body), &report); err != nil {
		return nil, fmt.Errorf("reading /status of %s: %w", m.Name, err)
	}
	return report.Problems, nil
}

// awaitReport waits until the node's agent reports a problem.
func (l *lab) awaitReport(m *machine, node string, reason problem.Reason) {
	l.t.Helper()
	l.await(func() error { return m.reports(l.t.Context(), node, reason) })
}

// observe watches the routes of both nodes from now on.
func (l *lab) observe() {
	l.t.Helper()
	for _, m := range []*machine{l.node, l.peer} {
		watch, err := m.WatchRoutes()
		l.must(err)
		l.t.Cleanup(watch.Close)
		l.watches = append(l.watches, watch)
	}
}

// checkUnmoved fails the test if a route to the lab's subnets, or to others that are named, came, went or was replaced
// since observe.
func (l *lab) checkUnmoved(others ...netip.Prefix) {
	l.t.Helper()
	for _, event := range l.moved(others...) {
		l.t.Errorf("a route moved: %+v", event)
	}
}

// moved returns the events of those routes since the last call.
func (l *lab) moved(others ...netip.Prefix) []netlab.RouteEvent {
	// The last action has to take effect first, if it has any effect.
	time.Sleep(100 * time.Millisecond)
	subnets := slices.Concat(l.node.Subnets, l.peer.Subnets, others)
	var moved []netlab.RouteEvent
	for _, watch := range l.watches {
		for _, event := range watch.Drain() {
			if slices.Contains(subnets, event.To) {
				moved = append(moved, event)
			}
		}
	}
	return moved
}
