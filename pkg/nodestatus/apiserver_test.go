package nodestatus

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/idle"
	"github.com/plainroute/plainroute/pkg/nodes"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/test/apiserver"
)

// A patch fails if the Node has changed since the last watch event.
func TestStalePatches(t *testing.T) {
	api := apiserver.Use(t)
	api.Add(apiserver.Tainted())
	w, err := NewWriter(api.TestUser(t, apiserver.MayPatch("nodes/status"), apiserver.MayPatch("nodes")), "node1", true, apiserver.StartupTaint)
	if err != nil {
		t.Fatal(err)
	}
	seen := nodes.OwnStateFrom(api.Read("node1"))
	another := &nodes.OwnState{UID: "another", Taints: seen.Taints}
	api.Edit("node1", func(n *corev1.Node) { n.Spec.Taints = n.Spec.Taints[1:] })
	before := api.Read("node1")
	for name, c := range map[string]struct {
		what nodePatch
		of   *nodes.OwnState
	}{
		"taints that moved": {startupTaint(apiserver.StartupTaint), seen}, "taints of another Node": {startupTaint(apiserver.StartupTaint), another}, "condition of another Node": {networkAvailable(), another},
	} {
		if err := w.send(context.Background(), c.what, c.of); err == nil {
			t.Errorf("%s: done", name)
		}
		if after := api.Read("node1"); !reflect.DeepEqual(after, before) {
			t.Errorf("%s: the Node became %+v", name, after)
		}
	}
	if err := w.send(context.Background(), startupTaint(apiserver.StartupTaint), nodes.OwnStateFrom(before)); err != nil {
		t.Error(err)
	}
	if err := api.Untainted(apiserver.StartupTaint); err != nil {
		t.Error(err)
	}
}

// A restarted agent raises the count of the Events of the agent before it.
func TestEventsOfARestartedAgent(t *testing.T) {
	api := apiserver.Use(t)
	api.ForgetEvents()
	t.Cleanup(api.ForgetEvents)
	config := api.TestUser(t, apiserver.MayWriteEvents())
	for i := 1; i <= 3; i++ {
		events := newClockedEvents(t, config)
		if err := events.write(context.Background(), problem.CNIConflict, &eventState{note: "05-other"}); err != nil {
			t.Fatal(err)
		}
		if err := api.HasEvents(fmt.Sprintf("Warning CNIConflict x%d", i)); err != nil {
			t.Error(err)
		}
	}
}

// The API server accepts Events of the maximum length.
func TestLongestEvent(t *testing.T) {
	api := apiserver.Use(t)
	t.Cleanup(api.ForgetEvents)
	events := newClockedEvents(t, api.TestUser(t, apiserver.MayWriteEvents()))
	label := strings.Repeat("n", 60)
	events.node = strings.Join([]string{label, label, label, label}, ".") + ".nnnnnnnn"
	for _, reason := range problem.Reasons() {
		note := problem.Problem{Reason: reason, Message: strings.Repeat("ö", noteLimit)}.Line(4999, noteLimit)
		if err := events.write(context.Background(), reason, &eventState{note: note}); err != nil {
			t.Errorf("%s of a note of %d bytes and a name of %d: %v", reason, len(note), len(events.node), err)
		}
	}
}

// After an outage Events have the notes of that time, not those of the outage.
func TestEventsAfterAnOutage(t *testing.T) {
	api := apiserver.Use(t)
	api.ForgetEvents()
	t.Cleanup(api.ForgetEvents)
	gate, through := apiserver.NewGate(t, api.Reader)
	config := api.TestUser(t, apiserver.MayWriteEvents())
	config.Host = through.Host
	events := newClockedEvents(t, config)
	events.schedule = newSchedule(func() float64 { return 0 })
	events.problems = map[problem.Reason]string{problem.CNIFailed: "disk full", problem.CNIConflict: "05-other"}
	for range 10 {
		events.Sync(t.Context())
		events.ahead.Add(int64(time.Minute))
	}
	if events.lost < 4 || events.lost > 12 {
		t.Errorf("%d Events are lost in ten minutes, want a few tries", events.lost)
	}
	gate.Open()
	events.problems = map[problem.Reason]string{problem.CNIConflict: "06-other"}
	for range 60 {
		events.Sync(t.Context())
		events.ahead.Add(int64(time.Minute))
	}
	if err := api.HasEvents("Warning CNIConflict x2"); err != nil || events.lost != 0 {
		t.Fatalf("%v; %d Events are lost", err, events.lost)
	}
	if e := api.NodeEvents(); !strings.HasPrefix(e[0].Message, "06-other") {
		t.Errorf("it told %q", e[0].Message)
	}
}

// clockedEvents is an Events whose clock a test advances.
type clockedEvents struct {
	*Events
	ahead *atomic.Int64
}

func newClockedEvents(t *testing.T, config *rest.Config) clockedEvents {
	t.Helper()
	events, err := NewEvents(config, "node1")
	if err != nil {
		t.Fatal(err)
	}
	ahead := &atomic.Int64{}
	events.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	return clockedEvents{events, ahead}
}

// advance advances the clock once the last Update is processed.
func (e clockedEvents) advance(d time.Duration) {
	e.rest()
	e.ahead.Add(int64(d))
	idle.Signal(e.news)
}

// rest waits for a whole Sync: once the channel has room for the third value, the Sync has ended that the first one
// started.
func (e clockedEvents) rest() {
	for range 3 {
		select {
		case e.news <- struct{}{}:
		case <-time.After(limit): // the test fails for what did not happen
		}
	}
}
