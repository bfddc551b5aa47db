package controllers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/apiserver"
)

// A route that the kernel refuses is a Problem of its peer and does not block readiness: one bad
// peer must not stall every rollout.
func TestRefusedRouteDoesNotBlock(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2), peer(3), peer(4))
	a := startAgent(t, agentOptions{host: func(h *memoryHost) {
		h.refuse("10.244.2.0/24", syscall.EINVAL)
		h.refuse("10.244.3.0/24", syscall.ENETUNREACH)
	}})
	a.eventually(a.ready)
	a.eventually(a.hasRoutes(peerRoute(4)))
	a.settleFailing()
	for _, node := range []string{"node2", "node3"} {
		if got := a.problems(node); len(got) != 1 || got[0].BlocksReady || got[0].Reason != problem.RouteFailed {
			t.Errorf("problems of %s are %v, want one RouteFailed that is not our own", node, got)
		}
		if got := a.log.with("msg=Problem", "node="+node); len(got) != 1 {
			t.Errorf("want one line in the log, got %q", got)
		}
	}
	a.eventually(a.metricIs(2, "plainroute_problems", map[string]string{"reason": "RouteFailed", "own": "false"}))
	if got := a.log.with("Added route", "10.244.2.0/24"); len(got) != 0 {
		t.Errorf("the log says that a refused route was added: %q", got)
	}

	a.host.allow("10.244.2.0/24", "10.244.3.0/24")
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3), peerRoute(4)))
	a.eventually(a.noProblems)
}

// While the kernel always refuses one route, another one that it refuses once is retried at once:
// each route has a backoff of its own.
func TestRefusedRouteDelaysNoOther(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2), peer(3))
	a := startAgent(t, agentOptions{host: func(h *memoryHost) { h.refuse("10.244.2.0/24", syscall.EINVAL) }})
	a.eventually(a.ready)
	const tries = 10 // the next one would be after 20 s
	a.eventually(func() (err error) {
		a.host.with(func() {
			if len(a.host.tries) < tries {
				err = fmt.Errorf("%d tries", len(a.host.tries))
			}
		})
		return err
	})
	a.host.disturb(func() {
		a.host.state.Routes = slices.DeleteFunc(a.host.state.Routes, func(r *topology.Route) bool { return r.Dst == netip.MustParsePrefix("10.244.3.0/24") })
		a.host.refusedRoutes[netip.MustParsePrefix("10.244.3.0/24")] = syscall.ENOBUFS
	})
	a.eventually(func() error {
		if got := a.problems("node3"); len(got) != 1 {
			return fmt.Errorf("problems of node3 are %v", got)
		}
		return nil
	})
	before := a.passes()
	a.eventually(func() error { // by itself, without a notification
		if n := a.passes() - before; n < 4 {
			return fmt.Errorf("%d passes", n)
		}
		return nil
	})
	a.host.allow("10.244.3.0/24")
	a.eventually(a.hasRoutes(peerRoute(3)))
}

// A table that can't be read or written delays nothing else, and keeps the node from being ready only where it masquerades.
func TestFailedTableStopsNothing(t *testing.T) {
	for name, c := range map[string]struct {
		masquerade bool
		fail       func(*memoryHost)
		detail     string
	}{
		"unread, needed":      {true, func(h *memoryHost) { h.facts.TableUnread = "reading it: refused" }, "reading it: refused"},
		"unread, not needed":  {false, func(h *memoryHost) { h.facts.TableUnread = "reading it: refused" }, "127.0.0.0/8"},
		"refused, needed":     {true, func(h *memoryHost) { h.refusedTable = errors.New("writing it: refused") }, "writing it: refused"},
		"refused, not needed": {false, func(h *memoryHost) { h.refusedTable = errors.New("writing it: refused") }, "127.0.0.0/8"},
	} {
		t.Run(name, func(t *testing.T) {
			api := useNodes(t)
			api.Add(node1(), peer(2))
			a := startAgent(t, agentOptions{host: c.fail, edit: func(o *topology.Options) { o.Masquerade = c.masquerade }})
			a.eventually(a.hasRoutes(peerRoute(2)))
			if c.masquerade {
				a.eventually(a.notReady("TableFailed", c.detail))
			} else {
				a.eventually(func() error {
					last := a.latest.Last()
					if p := last.Problems; !last.Ready || len(p) != 1 || p[0].Reason != problem.TableFailed || p[0].BlocksReady || !strings.Contains(p[0].Message, c.detail) {
						return fmt.Errorf("ready: %t, problems: %v", last.Ready, p)
					}
					return nil
				})
			}
			a.host.with(func() {
				if got := a.host.state.CNI != nil; got == c.masquerade {
					t.Errorf("the CNI config is there: %t", got)
				}
			})
			a.settleFailing()
			a.host.with(func() { a.host.facts.TableUnread, a.host.refusedTable = "", nil })
			a.eventually(a.noProblems)
			a.host.with(func() {
				if a.host.state.Masquerade == nil || a.host.state.CNI == nil {
					t.Error("the table or the CNI config is missing")
				}
			})
		})
	}
}

// Without CAP_NET_ADMIN no change can be made. That blocks readiness, and is reported once, however
// many peers there are.
func TestNoPermissionBlocks(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2), peer(3))
	a := startAgent(t, agentOptions{host: func(h *memoryHost) { h.refusedApply = syscall.EPERM }})
	a.eventually(a.notReady("KernelFailed", "operation not permitted"))
	a.eventually(a.remedied(problem.KernelFailed, "CAP_NET_ADMIN"))
	a.settleFailing()
	if got := a.log.with("msg=Problem", "CAP_NET_ADMIN", "route"); len(got) != 1 {
		t.Errorf("want one line in the log for all routes, got %q", got)
	}
	if got := a.log.with("Added route"); len(got) != 0 {
		t.Errorf("the log says %q", got)
	}
	a.host.with(func() {
		if a.host.state.CNI != nil {
			t.Error("the CNI config was written though nothing works")
		}
		a.host.refusedApply = nil
	})
	a.eventually(a.ready)
	a.eventually(a.noProblems)
}

// remedied returns an error unless each Problem of a Reason, of which there is one, has a remediation of its
// own with these words.
func (a *agent) remedied(reason problem.Reason, words string) func() error {
	return func() error {
		found := slices.DeleteFunc(slices.Clone(a.latest.Last().Problems), func(p problem.Problem) bool { return p.Reason != reason })
		if len(found) == 0 || slices.ContainsFunc(found, func(p problem.Problem) bool { return !strings.Contains(p.Remediation, words) }) {
			return fmt.Errorf("want %q in the remediation of %+v", words, found)
		}
		return nil
	}
}

// EPERM for a single route leads to the same Problem as for all.
func TestNoPermissionForARouteBlocks(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2))
	a := startAgent(t, agentOptions{host: func(h *memoryHost) { h.refuse("10.244.2.0/24", syscall.EPERM) }})
	a.eventually(a.notReady("KernelFailed"))
	a.eventually(a.remedied(problem.KernelFailed, "CAP_NET_ADMIN"))
	a.settleFailing()
	a.host.with(func() {
		if a.host.state.CNI != nil {
			t.Error("the CNI config was written")
		}
	})
	a.host.allow("10.244.2.0/24")
	a.eventually(a.ready)
}

func TestUnwritableCNIFolder(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2))
	a := startAgent(t, agentOptions{host: func(h *memoryHost) {
		h.refusedCNI = fmt.Errorf("putting the CNI config into /etc/cni/net.d: %w", syscall.EROFS)
	}})
	a.eventually(a.notReady("CNIFailed", "read-only file system"))
	a.eventually(a.remedied(problem.CNIFailed, "Mount it writable"))
	a.eventually(a.hasRoutes(peerRoute(2)))
	a.settleFailing()
	if got := a.log.with("msg=Problem", "read-only"); len(got) != 1 {
		t.Errorf("want one line in the log, got %q", got)
	}
	if got := a.log.with("Wrote CNI config"); len(got) != 0 {
		t.Errorf("the log says %q though it was not written", got)
	}
	a.eventually(a.metricIs(1, "plainroute_problems", map[string]string{"reason": "CNIFailed", "own": "true"}))
	a.host.with(func() { a.host.refusedCNI = nil })
	a.eventually(a.ready)
	if got := a.log.with("Wrote CNI config"); len(got) != 1 {
		t.Errorf("want one line in the log, got %q", got)
	}
}

func TestUnreadableHost(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2))
	a := startAgent(t, agentOptions{})
	a.eventually(a.ready)
	for what, refused := range map[string]*error{"reading this host": &a.host.refusedFacts, "observing the kernel": &a.host.refusedObserve} {
		a.host.disturb(func() { *refused = syscall.ENOBUFS })
		a.eventually(a.notReady("KernelFailed", what))
		a.host.with(func() { *refused = nil })
		a.eventually(a.ready)
	}
}

// Tries come ever more slowly, and the first ones fast.
func TestRetriesBackOff(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2))
	a := startAgent(t, agentOptions{host: func(h *memoryHost) { h.refuse("10.244.2.0/24", syscall.EINVAL) }})
	a.eventually(a.ready)
	var tries []time.Time
	a.eventually(func() error {
		a.host.with(func() { tries = slices.Clone(a.host.tries) })
		if len(tries) < 9 {
			return fmt.Errorf("%d tries", len(tries))
		}
		return nil
	})
	waits := make([]time.Duration, 0, len(tries))
	for i := range tries[1:9] {
		waits = append(waits, tries[i+1].Sub(tries[i]))
	}
	// A machine under load may make any of them longer, and none shorter; news may part one.
	if sorted := slices.Sorted(slices.Values(waits)); slices.Min(waits[:3]) > time.Second || sorted[6] < firstRetry<<5 {
		t.Errorf("waits between tries don't grow from %s on: %s", firstRetry, waits)
	}
}

func TestHealthyTellsAStuckPass(t *testing.T) {
	var r NodeReconciler
	if err := r.Healthy(); err != nil {
		t.Error(err)
	}
	start := time.Now().Add(-2 * time.Minute)
	r.running.Store(&start)
	if err := r.Healthy(); err == nil || !strings.Contains(err.Error(), "has not ended") {
		t.Errorf("a pass of two minutes is healthy: %v", err)
	}
	r.running.Store(nil)
	if err := r.Healthy(); err != nil {
		t.Error(err)
	}
}

// The agent ends when the kernel can't be watched any more: its view can't be trusted, and the next
// agent reads everything.
func TestWatchFailureEndsTheAgent(t *testing.T) {
	a := startAgent(t, agentOptions{config: apiserver.NewFake(t, node1(), peer(2)).Config})
	a.eventually(a.ready)
	before := a.host.routes()
	a.host.refusedWatch <- syscall.ENOMEM
	select {
	case err := <-a.ended:
		if !errors.Is(err, syscall.ENOMEM) || !strings.Contains(err.Error(), "watching this host: ") {
			t.Errorf("the loop ended with %v", err)
		}
	case <-time.After(limit):
		t.Fatal("the loop goes on")
	}
	if got := a.host.routes(); !slices.Equal(got, before) {
		t.Errorf("routes were %q and are %q", before, got)
	}
}

// panickingHost panics in its first reads.
type panickingHost struct {
	*memoryHost
	left     atomic.Int32
	concerns atomic.Int32 // the number of ranges of the last read
}

func (h *panickingHost) Facts(ctx context.Context, concerns []netip.Prefix) (topology.Host, error) {
	if h.left.Add(-1) >= 0 {
		panic("a fault")
	}
	h.concerns.Store(int32(len(concerns)))
	return h.memoryHost.Facts(ctx, concerns)
}

// A pass that panics is repeated, is a failure, and is logged with the stack.
func TestPanickingPassIsRepeated(t *testing.T) {
	a := newAgent(t, agentOptions{config: apiserver.NewFake(t, node1(), peer(2)).Config})
	host := &panickingHost{memoryHost: a.host}
	host.left.Store(3)
	a.loop.Dataplane = host
	a.run()
	a.eventually(a.ready)
	a.eventually(a.hasRoutes(peerRoute(2)))
	if lines := a.log.with("A pass panicked", `panic="a fault"`, "panickingHost"); len(lines) != 3 {
		t.Errorf("3 panics are logged as %q", lines)
	}
	if got := a.metric("plainroute_pass_failures_total", nil); got != 3 {
		t.Errorf("3 panics are %v failures", got)
	}
	if host.concerns.Load() == 0 {
		t.Error("foreign routes are read for no range")
	}
	if err := a.loop.Healthy(); err != nil {
		t.Error(err)
	}
}

// When an agent ends, all stays.
func TestEndRemovesNothing(t *testing.T) {
	var host *memoryHost
	t.Run("agent", func(t *testing.T) {
		a := startAgent(t, agentOptions{config: apiserver.NewFake(t, node1(), peer(2)).Config})
		a.eventually(a.ready)
		a.eventually(a.hasRoutes(peerRoute(2)))
		host = a.host
	})
	if done := host.since(0); contains(done, "delete") || len(host.routes()) != 3 || host.state.CNI == nil {
		t.Errorf("the end of the agent left %q by %q", host.routes(), done)
	}
}

func TestHealthzIsNotReadyz(t *testing.T) {
	a := startAgent(t, agentOptions{config: apiserver.NewFake(t, peer(2)).Config})
	a.eventually(a.notReady("NodeMissing"))
	if code, body := a.get("/healthz"); code != http.StatusOK {
		t.Errorf("healthz is %d %s: a restart would cure nothing", code, body)
	}
}

// refuse makes the host refuse routes to a subnet. allow ends that without a notification: the
// agent has to retry by itself.
func (h *memoryHost) refuse(subnet string, err error) {
	h.with(func() { h.refusedRoutes[netip.MustParsePrefix(subnet)] = err })
}

func (h *memoryHost) allow(subnets ...string) {
	h.with(func() {
		for _, s := range subnets {
			delete(h.refusedRoutes, netip.MustParsePrefix(s))
		}
	})
}

// settleFailing waits for a few more passes, all of which fail.
func (a *agent) settleFailing() {
	a.t.Helper()
	from := a.passes()
	a.eventually(func() error {
		if n := a.passes() - from; n < 3 {
			return fmt.Errorf("%d passes", n)
		}
		return nil
	})
}

func (a *agent) noProblems() error {
	if p := a.latest.Last().Problems; len(p) > 0 {
		return fmt.Errorf("problems: %v", p)
	}
	return nil
}

// The first pass does not wait, and reports that the list of Nodes is missing.
func TestFirstPassWaitsForNobody(t *testing.T) {
	f := apiserver.NewFake(t, node1())
	hold := make(chan struct{})
	f.Refuse(func(*http.Request) int { <-hold; return 0 })
	a := startAgent(t, agentOptions{config: f.Config})
	a.eventually(a.notReady("waiting for the first list of Nodes"))
	close(hold)
	a.eventually(a.ready)
}
