package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/netlab"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// The agents' settings for nodes behind a router, one after the other.
const (
	tunnels   = "--encapsulation=cross-subnet"
	byGateway = "--off-link=gateway"
)

// statusInterval is how often an agent is asked for its status.
const statusInterval = 20 * time.Millisecond

func (s *story) showTunnels(ctx context.Context) error {
	return s.showPaths(ctx, topology.PathTunnel)
}

// showPaths shows how the agents reach their peers, and requires that it is by offLink if these are on another LAN.
func (s *story) showPaths(ctx context.Context, offLink topology.Path) error {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	for _, node := range s.nodes {
		for _, peer := range s.nodes {
			if peer == node {
				continue
			}
			want := topology.PathDirect
			if peer.LAN != node.LAN {
				want = offLink
			}
			var because []string
			for _, subnet := range peer.Subnets {
				by, err := awaitPath(ctx, node, subnet, want)
				if err != nil {
					return err
				}
				because = append(because, by)
			}
			s.passed("%s -> %s  %-7s by %s", node.Name, peer.Name, want, strings.Join(because, " and "))
		}
	}
	return nil
}

// awaitPath waits until an agent's status has the path to a subnet, and returns the route because of which it is that.
func awaitPath(ctx context.Context, node *nodelab.Node, subnet netip.Prefix, want topology.Path) (by string, err error) {
	err = testutil.Poll(ctx, statusInterval, func() error {
		_, body, err := node.Get(ctx, "/status")
		if err != nil {
			return err
		}
		var view status.View
		if err := json.Unmarshal([]byte(body), &view); err != nil {
			return fmt.Errorf("reading the status of %s: %w", node.Name, err)
		}
		i := slices.IndexFunc(view.Peers, func(p status.Peer) bool { return p.Subnet == subnet })
		if i < 0 || view.Peers[i].Path != want {
			return fmt.Errorf("the status of %s has no path %q to %s: %+v", node.Name, want, subnet, view.Peers)
		}
		by = view.Peers[i].By
		return nil
	})
	return by, err
}

// route starts the router's agent, and gives the nodes' agents their other setting.
func (s *story) route(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	var err error
	if s.router, err = s.cluster.StartRouter(); err != nil {
		return err
	}
	for _, node := range s.nodes {
		if err := s.cluster.LAN.AwaitRoute(ctx, node.Subnets...); err != nil {
			return err
		}
	}
	routes, err := s.cluster.LAN.Routes(ctx)
	if err != nil {
		return err
	}
	s.text("router$ ip -4 route show proto 112; ip -6 route show proto 112", routes)
	for _, node := range s.nodes {
		if err := node.StopAgent(syscall.SIGTERM); err != nil {
			return err
		}
		if err := node.StartAgent(nodelab.AgentOptions{Args: []string{byGateway}}); err != nil {
			return err
		}
	}
	return s.showPaths(ctx, topology.PathGateway)
}

func (s *story) reachByRouter(ctx context.Context) error {
	machine, err := s.cluster.NewMachineOn(1, "machine", 9)
	if err != nil {
		return err
	}
	for _, from := range append(s.hosts(), machine) {
		for _, to := range s.hosts() {
			if from == to {
				continue
			}
			if err := s.reachPair(ctx, from, to); err != nil {
				return err
			}
		}
	}
	return nil
}

// hosts has a pod of a node on each LAN.
func (s *story) hosts() []*netlab.Host {
	return []*netlab.Host{s.pods[0].Host, s.pods[len(s.pods)-1].Host}
}

// killRouter leaves the router's agent running, so that a cluster that is kept is whole.
func (s *story) killRouter(ctx context.Context) error {
	if err := s.router.Stop(syscall.SIGKILL); err != nil {
		return err
	}
	hosts := s.hosts()
	if err := s.reachPair(ctx, hosts[0], hosts[1]); err != nil {
		return err
	}
	var err error
	s.router, err = s.cluster.StartRouter()
	return err
}
