package controllers

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/apiserver"
)

// age makes the running pass look older.
func (r *NodeReconciler) age(d time.Duration) {
	start := r.running.Load().Add(-d)
	r.running.Store(&start)
}

// A restart might help while the kernel does not answer: healthz fails once a pass has taken a
// minute, and is well again when the pass has ended.
func TestHealthzFailsWhenStuck(t *testing.T) {
	api := apiserver.NewFake(t, node1())
	a := startAgent(t, agentOptions{config: api.Config})
	a.eventually(a.ready)
	a.settle()
	hold := make(chan struct{})
	a.host.holds.Store(&hold)
	api.Create(peer(2))
	a.eventually(func() error {
		if !a.host.stuck.Load() {
			return errors.New("no pass is stuck")
		}
		return nil
	})
	a.loop.age(stuckAfter - 10*time.Second)
	if code, body := a.get("/healthz"); code != http.StatusOK {
		t.Errorf("a pass of less than a minute: healthz is %d %s", code, body)
	}
	a.loop.age(10 * time.Second)
	if code, body := a.get("/healthz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "has not ended") {
		t.Errorf("a pass of more than a minute: healthz is %d %s", code, body)
	}
	a.host.holds.Store(nil)
	close(hold)
	a.eventually(func() error {
		if code, body := a.get("/healthz"); code != http.StatusOK {
			return fmt.Errorf("healthz is %d %s", code, body)
		}
		return nil
	})
	a.eventually(a.hasRoutes(peerRoute(2)))
}

// Any other problem leaves healthz at 200, because a restart would not help.
func TestHealthzBearsAllElse(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2))
	gate, config := apiserver.NewGate(t, api.Reader)
	a := startAgent(t, agentOptions{config: config})
	healthy := func(when string) {
		t.Helper()
		if code, body := a.get("/healthz"); code != http.StatusOK {
			t.Errorf("%s: healthz is %d %s", when, code, body)
		}
	}
	a.eventually(a.notReady("APIUnavailable"))
	healthy("without an API server")
	gate.Open()
	a.eventually(a.ready)
	a.host.disturb(func() { a.host.refusedFacts = syscall.ENOBUFS })
	a.eventually(a.notReady("KernelFailed"))
	a.settleFailing()
	healthy("with a kernel that fails")
	gate.Shut()
	a.host.disturb(func() { a.host.refusedFacts = nil })
	a.eventually(a.ready)
	healthy("with the API server lost")
}

// partError is what the dataplane gives for a part of this node.
type partError struct {
	error
	key plan.Key
}

func (e partError) FailedKey() plan.Key { return e.key }

// Each part of this node that fails has a Reason of its own, and a part that pods don't need does
// not block readiness.
func TestFailedPartsHaveReasons(t *testing.T) {
	masquerades, routesOnly := topology.Options{Masquerade: true}, topology.Options{}
	limit := plan.Key{Kind: plan.KindSysctl, Name: topology.NeighSysctl(4, 1)}
	for _, c := range []struct {
		key  plan.Key
		opts topology.Options
		want problem.Problem
	}{
		{plan.Key{Kind: plan.KindSysctl, Name: topology.SysctlForward4}, routesOnly, problem.Problem{Reason: problem.SettingFailed, Message: "refused", BlocksReady: true}},
		{limit, masquerades, problem.Problem{Reason: problem.SettingFailed, Message: "refused"}},
		{plan.Key{Kind: plan.KindAddress}, routesOnly, problem.Problem{Reason: problem.BridgeFailed, Message: "refused", BlocksReady: true}},
		{plan.Key{Kind: plan.KindBridge}, routesOnly, problem.Problem{Reason: problem.BridgeFailed, Message: "refused", BlocksReady: true}},
		{tableKey, masquerades, problem.Problem{Reason: problem.TableFailed, Message: "refused", BlocksReady: true}},
		{tableKey, routesOnly, problem.Problem{Reason: problem.TableFailed, Message: "refused; pods are connected, and only what keeps them off the host's 127.0.0.0/8 is missing"}},
	} {
		err := errors.Join(errors.New("other"), partError{errors.New("refused"), c.key})
		got := problemsOf(err, nil, c.opts)
		wanted := []problem.Problem{{Reason: problem.KernelFailed, Message: "other", BlocksReady: true}, c.want}
		slices.SortFunc(wanted, problem.Problem.Compare)
		if !slices.Equal(got, wanted) {
			t.Errorf("%s: %v, want %v", c.key, got, wanted)
		}
		if got := blocks(partError{errors.New("refused"), c.key}, c.opts); got != c.want.BlocksReady {
			t.Errorf("%s blocks: %t, want %t", c.key, got, c.want.BlocksReady)
		}
	}
}
