package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"github.com/plainroute/plainroute/test/e2e/talk"
)

// inquiry is the questions of pods, and the verification of an answer.
type inquiry struct {
	from      []pod
	questions func(from pod) []talk.Question
	verify    func(from pod, answer talk.Answer) error
}

// ask lets all pods ask at the same time, and returns all problems found.
func (s *story) ask(ctx context.Context, what inquiry) error {
	problems := make([]error, len(what.from))
	var all sync.WaitGroup
	for i, from := range what.from {
		all.Go(func() {
			answers, err := s.cluster.ask(ctx, from, what.questions(from))
			if err == nil {
				err = verifyAll(answers, func(answer talk.Answer) error { return what.verify(from, answer) })
			}
			if err != nil {
				problems[i] = fmt.Errorf("pod %s on node %s:\n%w", from.name, from.node, err)
			}
		})
	}
	all.Wait()
	return errors.Join(problems...)
}

func verifyAll(answers []talk.Answer, verify func(talk.Answer) error) error {
	var problems []error
	for _, answer := range answers {
		err := verify(answer)
		if answer.Error != "" {
			err = errors.New(answer.Error)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("%s %s: %w", answer.Question.Network, answer.Question.Target, err))
		}
	}
	return errors.Join(problems...)
}

// askUntilRight waits for other programs: kube-proxy's rules, CoreDNS's start.
func (s *story) askUntilRight(ctx context.Context, t *testing.T, what inquiry) {
	t.Helper()
	await(ctx, t, "the right answers", func(ctx context.Context) error { return s.ask(ctx, what) })
}

// both are questions to an address over HTTP and UDP.
func both(address netip.Addr, port uint16) []talk.Question {
	target := netip.AddrPortFrom(address, port).String()
	return []talk.Question{{Network: talk.HTTP, Target: target}, {Network: talk.UDP, Target: target}}
}

// addressed is the address in a question's target.
func addressed(question talk.Question) netip.Addr {
	target, err := netip.ParseAddrPort(question.Target)
	if err != nil {
		return netip.Addr{}
	}
	return target.Addr()
}
