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
	"github.com/plainroute/plainroute/pkg/topology"
)

// age makes the running pass look older.
func (c *passClock) age(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.start = c.start.Add(-d)
}

func (c *passClock) running() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.start.IsZero()
}

// A kernel that does not answer is what a restart might cure: healthz tells it once it
// has lasted for a minute, and no more when the pass has ended.
func TestHealthzFailsWhenStuck(t *testing.T) {
	api := useNodes(t)
	api.create(node1())
	a := startAgent(t, agentOptions{})
	a.eventually(a.ready)
	a.settle()
	hold := make(chan struct{})
	a.host.holds.Store(&hold)
	api.create(peer(2))
	a.eventually(func() error {
		if !a.host.stuck.Load() {
			return errors.New("no pass is stuck")
		}
		return nil
	})
	a.loop.started.age(stuckAfter - 10*time.Second)
	if code, body := a.get("/healthz"); code != http.StatusOK {
		t.Errorf("a pass of less than a minute: healthz is %d %s", code, body)
	}
	a.loop.started.age(10 * time.Second)
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

// Whatever else is wrong, a restart would cure nothing.
func TestHealthzBearsAllElse(t *testing.T) {
	api := useNodes(t)
	api.create(node1(), peer(2))
	gate, config := newGate(t)
	a := startAgent(t, agentOptions{config: config})
	healthy := func(when string) {
		t.Helper()
		if code, body := a.get("/healthz"); code != http.StatusOK {
			t.Errorf("%s: healthz is %d %s", when, code, body)
		}
	}
	a.eventually(a.notReady("APIUnavailable"))
	healthy("without an API server")
	gate.open()
	a.eventually(a.ready)
	a.host.disturb(func() { a.host.refusedFacts = syscall.ENOBUFS })
	a.eventually(a.notReady("KernelFailed"))
	a.settleFailing()
	healthy("with a kernel that fails")
	gate.shut()
	a.host.disturb(func() { a.host.refusedFacts = nil })
	a.eventually(a.ready)
	healthy("with the API server lost")
}

// partError is what the dataplane gives for a part of this node.
type partError struct {
	error
	kind plan.Kind
}

func (e partError) FailedKind() plan.Kind { return e.kind }

// Which part of this node can't be made is told apart.
func TestFailedPartsHaveReasons(t *testing.T) {
	for kind, want := range map[plan.Kind]topology.Reason{
		plan.KindSysctl: topology.SettingFailed, plan.KindTable: topology.TableFailed,
		plan.KindAddress: topology.BridgeFailed, plan.KindBridge: topology.BridgeFailed,
	} {
		got := problemsOf(errors.Join(errors.New("other"), partError{errors.New("refused"), kind}), nil)
		wanted := []topology.Problem{{Reason: topology.KernelFailed, Detail: "other", Own: true}, {Reason: want, Detail: "refused", Own: true}}
		slices.SortFunc(wanted, topology.Problem.Compare)
		if !slices.Equal(got, wanted) {
			t.Errorf("%s: %v, want %v", kind, got, wanted)
		}
	}
}
