package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/plainroute/plainroute/test/netlab"
	"github.com/plainroute/plainroute/test/nodelab"
)

// storyLimit ends a demo that hangs, and stepLimit each single wait: a machine under load takes its time, but not
// minutes.
const (
	storyLimit = 5 * time.Minute
	stepLimit  = time.Minute
)

// story is the demo: its steps in order.
type story struct {
	*screen
	config  nodelab.Config
	cluster *nodelab.Cluster
	nodes   []*nodelab.Node
	pods    []*nodelab.Pod
	router  *nodelab.Router
}

func newStory(show *screen, config nodelab.Config) *story {
	return &story{screen: show, config: config}
}

func (s *story) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storyLimit)
	defer cancel()
	for _, step := range []struct {
		title string
		run   func(context.Context) error
	}{
		{"A cluster of three nodes, each a network namespace: node1 and node2 on one LAN, node3 behind its router", s.startCluster},
		{"Two pods on each node, attached by the stock bridge plugin with the config that the agent wrote", s.addPods},
		{"The routes that the agents added", s.showRoutes},
		{"The nodes on one LAN reach each other directly, node3 by VXLAN", s.showTunnels},
		{"Every pod reaches every pod, and is seen under its own address", s.reachPods},
		{"Nodes reach pods", s.reachFromNodes},
		{"Pods reach a host outside the cluster, masqueraded", s.reachOutside},
		{"A fourth node joins", s.join},
		{"The fourth node leaves", s.leave},
		{"A route deleted by hand comes back", s.heal},
		{"The router runs an agent too, --mode router, and the nodes send by it instead of VXLAN: --off-link=gateway", s.route},
		{"Pods reach pods on the other LAN by the router, as does a machine there that is not a Node", s.reachByRouter},
		{"While the router's agent is away, its routes stay", s.killRouter},
	} {
		s.section(step.title)
		if err := step.run(ctx); err != nil {
			return errors.Join(err, s.agentsThatEnded())
		}
	}
	if s.config.Fake {
		s.note("the API server was a small one; `make demo` shows the same with a real etcd and kube-apiserver, which it compiles first")
	}
	return nil
}

// agentsThatEnded names the agents that should run and don't: a likely reason for the failure.
func (s *story) agentsThatEnded() error {
	var failures []error
	for _, node := range s.nodes {
		if !node.AgentRunning() {
			failures = append(failures, fmt.Errorf("the agent of %s has ended; the end of its log:\n%s",
				node.Name, node.LogTail(10)))
		}
	}
	return errors.Join(failures...)
}

func (s *story) startCluster(ctx context.Context) (err error) {
	server := "kube-apiserver"
	if s.config.Fake {
		server = "a small API server"
	} else {
		s.note("starting etcd and kube-apiserver")
	}
	if s.cluster, err = nodelab.Start(ctx, s.config); err != nil {
		return err
	}
	s.passed("%s answers at %s", server, netip.AddrPortFrom(netlab.Router4, nodelab.APIPort))
	if err := s.cluster.AddSecondLAN(); err != nil {
		return err
	}
	for i, lan := range []int{0, 0, 1} {
		node, err := s.cluster.AddNode(ctx, lan, i+1, tunnels)
		if err != nil {
			return err
		}
		s.nodes = append(s.nodes, node)
	}
	for _, node := range s.nodes {
		if err := s.waitReady(ctx, node); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) waitReady(ctx context.Context, node *nodelab.Node) error {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	if err := node.WaitReady(ctx); err != nil {
		return err
	}
	s.passed("%s is ready: %s %s, for pods %s %s", node.Name, node.V4, node.V6, node.Subnets[0], node.Subnets[1])
	return nil
}

func (s *story) addPods(ctx context.Context) error {
	for _, node := range s.nodes {
		for _, name := range []string{"a", "b"} {
			pod, err := node.AddPod(ctx, name)
			if err != nil {
				return err
			}
			s.pods = append(s.pods, pod)
			s.passed("%s has %s %s", pod.Name, pod.V4, pod.V6)
		}
	}
	return nil
}

func (s *story) showRoutes(ctx context.Context) error {
	for _, node := range s.nodes {
		if err := s.awaitPeers(ctx, node); err != nil {
			return err
		}
		routes, err := node.Routes(ctx)
		if err != nil {
			return err
		}
		s.text(node.Name+"$ ip -4 route show proto 112; ip -6 route show proto 112", routes)
	}
	return nil
}

// awaitPeers waits for the routes to all peers: readiness covers only the node itself, so the route
// to a peer that registered last may still be missing.
func (s *story) awaitPeers(ctx context.Context, node *nodelab.Node) error {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	for _, peer := range s.nodes {
		if peer == node {
			continue
		}
		if err := node.AwaitRoute(ctx, peer.Subnets...); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) join(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	node, err := s.cluster.NewNode(4)
	if err != nil {
		return err
	}
	delays, err := nodelab.AwaitRoutes(ctx, s.nodes, true, node.Subnets, func() error { return node.Register(ctx) })
	if err != nil {
		return err
	}
	s.noteDelays("has the routes to node4 %s after the call that creates the Node", delays)
	if err := node.StartAgent(nodelab.AgentOptions{Args: []string{tunnels}}); err != nil {
		return err
	}
	if err := s.waitReady(ctx, node); err != nil {
		return err
	}
	pod, err := node.AddPod(ctx, "a")
	if err != nil {
		return err
	}
	s.nodes = append(s.nodes, node)
	if err := s.awaitPeers(ctx, node); err != nil {
		return err
	}
	return s.reachPair(ctx, pod.Host, s.pods[0].Host)
}

func (s *story) noteDelays(format string, delays []nodelab.Delay) {
	for _, delay := range delays {
		s.passed("%s "+format, delay.Node, milliseconds(delay.Took))
	}
}

func (s *story) leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	node := s.nodes[3]
	s.nodes = s.nodes[:3]
	delays, err := nodelab.AwaitRoutes(ctx, s.nodes, false, node.Subnets, func() error { return node.Deregister(ctx) })
	if err != nil {
		return err
	}
	s.noteDelays("removed the routes to node4 %s after the call that deletes the Node", delays)
	return node.StopAgent(syscall.SIGTERM)
}

func (s *story) heal(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	for _, subnet := range slices.Concat(s.nodes[1].Subnets, s.nodes[2].Subnets) {
		took, err := s.nodes[0].Heal(ctx, subnet)
		if err != nil {
			return fmt.Errorf("deleting the route to %s on node1: %w", subnet, err)
		}
		s.passed("node1$ ip route del %s: back after %s", subnet, milliseconds(took))
	}
	return nil
}
