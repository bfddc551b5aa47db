package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/plainroute/plainroute/test/e2e/talk"
)

// names: a pod on each node looks up Services in its own namespace, in another one, and the pods behind a headless one.
func (s *story) names(ctx context.Context, t *testing.T) {
	now := s.scene(ctx, t)
	var pods []netip.Addr
	for _, one := range in(now.pods, groupA) {
		pods = append(pods, one.addresses...)
	}
	cluster := s.cluster.front(ctx, t, serviceCluster).addresses
	expected := map[string][]netip.Addr{
		serviceNames:                     pods,
		serviceCluster:                   cluster,
		serviceCluster + "." + namespace: cluster,
		"kubernetes.default":             nil, // any
	}
	s.askUntilRight(ctx, t, inquiry{
		from: in(now.pods, groupB),
		questions: func(pod) (questions []talk.Question) {
			for name := range expected {
				questions = append(questions, talk.Question{Network: talk.DNS, Target: name})
			}
			return questions
		},
		verify: func(_ pod, answer talk.Answer) error {
			want, got := expected[answer.Question.Target], answer.Addresses
			if want != nil && !sameAddresses(want, got) {
				return fmt.Errorf("it is %s: want %s", got, want)
			}
			return nil
		},
	})
}

func sameAddresses(a, b []netip.Addr) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.SortFunc(a, netip.Addr.Compare)
	slices.SortFunc(b, netip.Addr.Compare)
	return slices.Equal(a, b)
}
