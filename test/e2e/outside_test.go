package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/plainroute/plainroute/test/e2e/talk"
	"github.com/plainroute/plainroute/test/testutil"
)

// outsidePort is where the host outside serves.
const outsidePort = 18070

// outside is a host that isn't part of the cluster, has no route to its pods, and reaches the nodes.
type outside struct {
	command   []string
	addresses []netip.Addr
}

// newOutside starts a server on the host outside. E2E_OUTSIDE is the prefix of commands that run there.
func newOutside(t *testing.T) *outside {
	t.Helper()
	o := &outside{command: strings.Fields(os.Getenv("E2E_OUTSIDE"))}
	if len(o.command) == 0 {
		return o
	}
	text, err := o.run(t.Context(), "", "addresses")
	testutil.Must(t, err)
	testutil.Must(t, json.Unmarshal([]byte(text), &o.addresses))
	testutil.Must(t, o.serve(t))
	return o
}

func (o *outside) argv(args ...string) []string {
	return slices.Concat(o.command, []string{tool("workload")}, args)
}

func (o *outside) run(ctx context.Context, stdin string, args ...string) (string, error) {
	return output(ctx, stdin, o.argv(args...)...)
}

// serve starts the server and waits until it prints that it serves. It ends with its standard
// input: a signal would reach only the first of the programs that lead there.
func (o *outside) serve(t *testing.T) error {
	argv := o.argv("serve", fmt.Sprintf("-port=%d", outsidePort), "-until-eof")
	server := exec.Command(argv[0], argv[1:]...)
	server.Stderr = os.Stderr
	stdin, err := server.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := server.StdoutPipe()
	if err != nil {
		return err
	}
	if err := server.Start(); err != nil {
		return fmt.Errorf("starting the server outside: %w", err)
	}
	t.Cleanup(func() {
		stdin.Close()
		_ = server.Wait()
	})
	if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		return fmt.Errorf("waiting for the server outside: %w", err)
	}
	return nil
}

func (o *outside) needed(t *testing.T) {
	t.Helper()
	if len(o.command) == 0 {
		t.Skip("E2E_OUTSIDE is unset: there is no host outside the cluster to use, see test/e2e/README.md")
	}
}

// ask lets the host outside ask.
func (o *outside) ask(ctx context.Context, questions []talk.Question, verify func(talk.Answer) error) error {
	text, err := json.Marshal(questions)
	if err != nil {
		return err
	}
	output, err := o.run(ctx, string(text), "ask")
	if err != nil {
		return err
	}
	var answers []talk.Answer
	if err := json.Unmarshal([]byte(output), &answers); err != nil {
		return fmt.Errorf("understanding the host outside: %w", err)
	}
	return verifyAll(answers, verify)
}

// of are the addresses outside of the cluster's families.
func (o *outside) of(families []string) []netip.Addr {
	var addresses []netip.Addr
	for _, wanted := range families {
		if address := ofFamily(o.addresses, wanted); address.IsValid() {
			addresses = append(addresses, address)
		}
	}
	return addresses
}

// fromOutside: NodePorts and host ports of each node answer a stranger. Where the Service asks for it, and by a host
// port, the pod of that very node sees the stranger's own address.
func (s *story) fromOutside(ctx context.Context, t *testing.T) {
	s.outside.needed(t)
	now := s.scene(ctx, t)
	anywhere, local := s.cluster.front(ctx, t, serviceCluster), s.cluster.front(ctx, t, serviceLocal)
	var questions []talk.Question
	for _, to := range now.nodes {
		questions = slices.Concat(questions, anywhere.nodePorts(to), local.nodePorts(to))
		for _, address := range to.addresses {
			questions = append(questions, both(address, hostPort)...)
		}
	}
	shared := []uint16{anywhere.port, anywhere.portUDP}
	verify := func(answer talk.Answer) error {
		if len(answer.From) != 1 {
			return errors.New("no answer")
		}
		target, got := netip.MustParseAddrPort(answer.Question.Target), answer.From[0]
		if !now.has(groupA, got.Pod) {
			return fmt.Errorf("pod %s answered", got.Pod)
		}
		if slices.Contains(shared, target.Port()) {
			return nil
		}
		if at := now.at(target.Addr()); got.Node != at || !slices.Contains(s.outside.addresses, got.Seen) {
			return fmt.Errorf("a pod on node %s answered to %s: want one on node %s, to one of %s", got.Node, got.Seen, at, s.outside.addresses)
		}
		return nil
	}
	await(ctx, t, "the right answers", func(ctx context.Context) error { return s.outside.ask(ctx, questions, verify) })
	t.Logf("%d questions from outside", len(questions))
}

// toOutside: a stranger takes each pod for its node.
func (s *story) toOutside(ctx context.Context, t *testing.T) {
	s.outside.needed(t)
	now := s.scene(ctx, t)
	testutil.Must(t, s.ask(ctx, inquiry{
		from: now.pods,
		questions: func(pod) (questions []talk.Question) {
			for _, address := range s.outside.of(now.families) {
				questions = append(questions, both(address, outsidePort)...)
			}
			return questions
		},
		verify: func(from pod, answer talk.Answer) error {
			for _, got := range answer.From {
				if !slices.Contains(now.node(from.node).addresses, got.Seen) {
					return fmt.Errorf("it was taken for %s: want one of its node's, %s", got.Seen, now.node(from.node).addresses)
				}
			}
			return nil
		},
	}))
}
