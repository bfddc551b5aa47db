package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/test/e2e/talk"
	"github.com/plainroute/plainroute/test/testutil"
)

const (
	servicePort = 80
	// affinityTries in a row go to one pod of three by chance once in a billion times.
	affinityTries = 20
)

// front is how a Service is reached.
type front struct {
	addresses []netip.Addr // ClusterIPs
	port      uint16       // NodePort, of TCP
	portUDP   uint16       // NodePort, of UDP
}

func (c *cluster) front(ctx context.Context, t *testing.T, name string) front {
	t.Helper()
	object, err := c.api.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
	testutil.Must(t, err)
	var one front
	for _, text := range object.Spec.ClusterIPs {
		address, err := netip.ParseAddr(text)
		testutil.Must(t, err)
		one.addresses = append(one.addresses, address)
	}
	one.port = uint16(object.Spec.Ports[0].NodePort)
	one.portUDP = uint16(object.Spec.Ports[1].NodePort)
	return one
}

// nodePorts are questions to a Service by each address of a node.
func (f front) nodePorts(at node) []talk.Question {
	var questions []talk.Question
	for _, address := range at.addresses {
		questions = append(questions,
			talk.Question{Network: talk.HTTP, Target: netip.AddrPortFrom(address, f.port).String()},
			talk.Question{Network: talk.UDP, Target: netip.AddrPortFrom(address, f.portUDP).String()})
	}
	return questions
}

// hostPorts: each pod and node asks each node, by its own address too, and its own loopback.
func (s *story) hostPorts(ctx context.Context, t *testing.T) {
	now := s.scene(ctx, t)
	loopback := netip.MustParseAddr("127.0.0.1")
	testutil.Must(t, s.ask(ctx, inquiry{
		from: now.pods,
		questions: func(from pod) (questions []talk.Question) {
			for _, to := range now.nodes {
				for _, address := range to.addresses {
					questions = append(questions, both(address, hostPort)...)
				}
			}
			if from.onHost() && slices.Contains(now.families, "IPv4") {
				questions = append(questions, talk.Question{Network: talk.HTTP, Target: netip.AddrPortFrom(loopback, hostPort).String()})
			}
			return questions
		},
		verify: func(from pod, answer talk.Answer) error {
			at := now.at(addressed(answer.Question))
			if at == "" {
				at = from.node
			}
			for _, got := range answer.From {
				if got.Node != at || got.Pod != in(on(now.pods, at), groupA)[0].name {
					return fmt.Errorf("pod %s on node %s answered: want that of node %s", got.Pod, got.Node, at)
				}
				if allowed := now.seenByNode(from, at); from.node != at && !slices.Contains(allowed, got.Seen) {
					return fmt.Errorf("it was taken for %s: want one of %s", got.Seen, allowed)
				}
			}
			return nil
		},
	}))
}

// at is the node that has the address, or none.
func (s scene) at(address netip.Addr) string {
	for _, one := range s.nodes {
		if slices.Contains(one.addresses, address) {
			return one.name
		}
	}
	return ""
}

// services: each pod and node reaches a Service by its ClusterIPs, and by its NodePort on each node.
func (s *story) services(ctx context.Context, t *testing.T) {
	now := s.scene(ctx, t)
	service := s.cluster.front(ctx, t, serviceCluster)
	s.askUntilRight(ctx, t, inquiry{
		from: now.pods,
		questions: func(pod) (questions []talk.Question) {
			for _, address := range service.addresses {
				questions = append(questions, both(address, servicePort)...)
			}
			for _, to := range now.nodes {
				questions = append(questions, service.nodePorts(to)...)
			}
			return questions
		},
		verify: func(from pod, answer talk.Answer) error {
			got := answer.From
			if len(got) == 1 && !now.has(groupA, got[0].Pod) {
				return fmt.Errorf("pod %s answered, which the Service doesn't select", got[0].Pod)
			}
			// kube-proxy masquerades packets of a node, and of a pod to itself.
			byService := slices.Contains(service.addresses, addressed(answer.Question))
			if byService && !from.onHost() && len(got) == 1 && got[0].Pod != from.name && !slices.Contains(from.addresses, got[0].Seen) {
				return fmt.Errorf("it was taken for %s: want one of %s", got[0].Seen, from.addresses)
			}
			return nil
		},
	})
}

func (s scene) has(group, name string) bool {
	return slices.ContainsFunc(in(s.pods, group), func(one pod) bool { return one.name == name })
}

// affinity: a client is always answered by the same pod where the Service asks for that, and by several elsewhere.
func (s *story) affinity(ctx context.Context, t *testing.T) {
	now := s.scene(ctx, t)
	sticky, other := s.cluster.front(ctx, t, serviceSticky), s.cluster.front(ctx, t, serviceCluster)
	s.askUntilRight(ctx, t, inquiry{
		from: in(now.pods, groupB),
		questions: func(pod) (questions []talk.Question) {
			for _, address := range slices.Concat(sticky.addresses, other.addresses) {
				target := netip.AddrPortFrom(address, servicePort).String()
				questions = append(questions, talk.Question{Network: talk.HTTP, Target: target, Count: affinityTries})
			}
			return questions
		},
		verify: func(_ pod, answer talk.Answer) error {
			by := map[string]int{}
			for _, got := range answer.From {
				by[got.Pod]++
			}
			isSticky := slices.Contains(sticky.addresses, addressed(answer.Question))
			if isSticky != (len(by) == 1) {
				return fmt.Errorf("of %d times these answered: %v; is it to be one: %t", affinityTries, by, isSticky)
			}
			return nil
		},
	})
}

// hairpin: a pod asks a Service of which it is the only endpoint that its node may choose.
func (s *story) hairpin(ctx context.Context, t *testing.T) {
	now := s.scene(ctx, t)
	self := s.cluster.front(ctx, t, serviceSelf)
	s.askUntilRight(ctx, t, inquiry{
		from: in(now.pods, groupA),
		questions: func(pod) (questions []talk.Question) {
			for _, address := range self.addresses {
				questions = append(questions, both(address, servicePort)...)
			}
			return questions
		},
		verify: func(from pod, answer talk.Answer) error {
			for _, got := range answer.From {
				if got.Pod != from.name {
					return fmt.Errorf("pod %s answered: want itself", got.Pod)
				}
			}
			return nil
		},
	})
}
