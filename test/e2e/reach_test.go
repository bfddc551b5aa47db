package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/plainroute/plainroute/test/e2e/talk"
	"github.com/plainroute/plainroute/test/testutil"
)

// scene is the cluster as a check finds it.
type scene struct {
	nodes    []node
	pods     []pod
	families []string
	// routed has the pairs of nodes, from and to, with a router between them.
	routed sets.Set[[2]string]
}

func (s *story) scene(ctx context.Context, t *testing.T) scene {
	t.Helper()
	nodes, err := s.cluster.nodes(ctx)
	testutil.Must(t, err)
	pods, err := s.cluster.readyPods(ctx, nil)
	testutil.Must(t, err)
	routed, err := routedPairs(ctx, nodes)
	testutil.Must(t, err)
	return scene{nodes: nodes, pods: pods, families: families(nodes), routed: routed}
}

// addresses: one of each family for each pod, from its own node's subnets, and no pod has another's.
func (s *story) addresses(ctx context.Context, t *testing.T) {
	now := s.scene(ctx, t)
	owners := map[netip.Addr]string{}
	for _, one := range now.pods {
		if one.onHost() {
			continue
		}
		if len(one.addresses) != len(now.families) {
			t.Errorf("pod %s has the addresses %v: want one of each of %v", one.name, one.addresses, now.families)
		}
		for _, address := range one.addresses {
			if !slices.ContainsFunc(now.node(one.node).subnets, func(p netip.Prefix) bool { return p.Contains(address) }) {
				t.Errorf("pod %s has the address %s, none of its node's", one.name, address)
			}
			if owners[address] != "" {
				t.Errorf("the pods %s and %s both have %s", owners[address], one.name, address)
			}
			owners[address] = one.name
		}
	}
	t.Logf("%d addresses of pods, all different", len(owners))
}

func (s scene) node(name string) node {
	i := slices.IndexFunc(s.nodes, func(one node) bool { return one.name == name })
	if i < 0 {
		return node{}
	}
	return s.nodes[i]
}

func (s *story) reach(ctx context.Context, t *testing.T) {
	s.reachAll(ctx, t, s.scene(ctx, t))
}

// reachAll lets each pod ask each other one, on its network or the host's, over TCP and UDP and each family, for its
// identity and the client's address as it sees it. Nothing is asked twice: a ready pod on a ready node must answer.
func (s *story) reachAll(ctx context.Context, t *testing.T, now scene) {
	t.Helper()
	hosts, err := s.hostAddresses(ctx, now)
	testutil.Must(t, err)
	var all sync.WaitGroup
	var mu sync.Mutex
	var faults []error
	count := 0
	for _, from := range now.pods {
		all.Go(func() {
			asked, problems := s.reachFrom(ctx, now, hosts, from)
			mu.Lock()
			defer mu.Unlock()
			count += asked
			faults = append(faults, problems...)
		})
	}
	all.Wait()
	if len(faults) > 0 {
		t.Errorf("%d wrong answers, the first:\n%v", len(faults), errors.Join(faults[:min(len(faults), 20)]...))
	}
	t.Logf("%d questions between %d pods on %d nodes", count, len(now.pods), len(now.nodes))
}

func (s *story) reachFrom(ctx context.Context, now scene, hosts map[string][]netip.Addr, from pod) (asked int, problems []error) {
	var questions []talk.Question
	var targets []pod
	for _, to := range now.pods {
		if to.name == from.name {
			continue
		}
		for _, address := range to.addresses {
			questions = append(questions,
				talk.Question{Network: talk.TCP, Target: netip.AddrPortFrom(address, talk.TCPPort(to.port)).String()},
				talk.Question{Network: talk.UDP, Target: netip.AddrPortFrom(address, to.port).String()})
			targets = append(targets, to, to)
		}
	}
	answers, err := s.cluster.ask(ctx, from, questions)
	if err != nil {
		return 0, []error{err}
	}
	for i, answer := range answers {
		if err := now.verify(hosts, from, targets[i], answer); err != nil {
			problems = append(problems, fmt.Errorf("pod %s on node %s to pod %s on node %s: %w", from.name, from.node, targets[i].name, targets[i].node, err))
		}
	}
	return len(answers), problems
}

// verify returns what is wrong with an answer: missing, from another pod than the target, or to
// another address than the client's.
func (s scene) verify(hosts map[string][]netip.Addr, from, to pod, answer talk.Answer) error {
	if answer.Error != "" {
		return fmt.Errorf("no answer: %s", answer.Error)
	}
	got := answer.From[0]
	if got.Pod != to.name {
		return fmt.Errorf("pod %s answered", got.Pod)
	}
	allowed := s.seenByNode(from, to.node)
	switch {
	case !from.onHost() && !to.onHost():
		allowed = from.addresses
	case from.onHost() && (from.node == to.node || s.isRouted(from.node, to.node)):
		// A node's packets to its own pods have the bridge's address as source, and those into a tunnel the tunnel's.
		allowed = hosts[from.node]
	}
	if !slices.Contains(allowed, got.Seen) {
		return fmt.Errorf("it was taken for %s: want one of %s", got.Seen, allowed)
	}
	return nil
}

// seenByNode are the addresses that a pod may have at a node's own address. Packets to a node behind a router go through
// the network outside the tunnel, which may drop pods' addresses, so they get those of the pod's node.
func (s scene) seenByNode(from pod, to string) []netip.Addr {
	if s.isRouted(from.node, to) {
		return s.node(from.node).addresses
	}
	return from.addresses
}

// hostAddresses are all that a node has, its bridge's included.
func (s *story) hostAddresses(ctx context.Context, now scene) (map[string][]netip.Addr, error) {
	hosts := map[string][]netip.Addr{}
	for _, one := range in(now.pods, groupHost) {
		var addresses []netip.Addr
		if err := s.cluster.send(ctx, one, http.MethodGet, "/addresses", nil, &addresses); err != nil {
			return nil, err
		}
		hosts[one.node] = addresses
	}
	return hosts, nil
}
