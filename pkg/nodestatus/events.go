package nodestatus

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/go-logr/logr"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/idle"
	"github.com/plainroute/plainroute/pkg/nodes"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
)

// Events records this node's problems as Events on its Node. It works in a goroutine of its
// own, as Writer does.
//
// It replaces the recorder of client-go (tools/events), which queues Events, tries each twelve
// times, keeps the note of the first of a series, and has all nodes write at once. Here nothing
// is queued: an Event has the note of the time at which it is written.
type Events struct {
	// Now is the clock of the schedule; it is set before Run.
	Now func() time.Time

	client   rest.Interface
	node     string
	schedule *schedule
	news     chan struct{}
	lost     int // Events that could not be written since one was

	mu       sync.Mutex
	problems map[problem.Reason]string
	ready    bool
	nodes    int
}

// NewEvents returns Events on the Node of a name.
func NewEvents(config *rest.Config, node string) (*Events, error) {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, eventsv1.SchemeGroupVersion)
	c := rest.CopyConfig(config)
	c.APIPath, c.GroupVersion = "/apis", &eventsv1.SchemeGroupVersion
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	c.AcceptContentTypes = runtime.ContentTypeJSON // which patch decodes
	client, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("making a client for Events: %w", err)
	}
	return &Events{Now: time.Now, client: client, node: node, schedule: newSchedule(rand.Float64), news: make(chan struct{}, 1)}, nil
}

// Update passes on the result of a pass.
func (e *Events) Update(r *status.Result) {
	problems := notesOf(r.Problems, e.node)
	e.mu.Lock()
	defer e.mu.Unlock()
	if r.Ready == e.ready && len(r.Nodes) == e.nodes && maps.Equal(problems, e.problems) {
		return
	}
	e.problems, e.ready, e.nodes = problems, r.Ready, len(r.Nodes)
	idle.Signal(e.news)
}

// Run writes Events until ctx ends.
func (e *Events) Run(ctx context.Context) { idle.Repeat(ctx, e.news, e.Sync) }

// Sync writes the Events that are due, and returns when to call it again, 0: after the next
// Update. Run calls it.
func (e *Events) Sync(ctx context.Context) time.Duration {
	for {
		now := e.Now()
		e.mu.Lock()
		problems, ready, nodes := e.problems, e.ready, e.nodes
		e.mu.Unlock()
		e.schedule.update(now, problems, ready, nodes)
		reason, wait := e.schedule.next(now)
		if reason == "" {
			return wait
		}
		err := e.write(ctx, reason, e.schedule.states[reason])
		if ctx.Err() != nil {
			return 0
		}
		e.schedule.done(e.Now(), reason, err)
		e.logLoss(ctx, reason, err)
	}
}

// logLoss logs the first of the Events that are lost, and their number once one is written.
func (e *Events) logLoss(ctx context.Context, reason problem.Reason, err error) {
	logger := logr.FromContextOrDiscard(ctx)
	switch {
	case err != nil && e.lost == 0:
		logger.Info("Failed to write an Event", "reason", reason, "error", nodes.StableError(err).Error())
		e.lost++
	case err != nil:
		e.lost++
	case e.lost > 0:
		logger.Info("Events are written again", "lost", e.lost)
		e.lost = 0
	}
}

// write writes the Event of a Reason, and counts the series of Events with one note.
func (e *Events) write(ctx context.Context, reason problem.Reason, state *eventState) error {
	if state.counted != state.note {
		state.count, state.counted = 0, state.note
	}
	count, err := e.send(ctx, newEvent(e.node, reason, state.note, e.Now()), state.count)
	if err == nil {
		state.count = count
	}
	return err
}

// send creates an Event, or raises the count of one that exists: with this count, or if count is
// 0, with that of an earlier agent. It returns the new count.
func (e *Events) send(ctx context.Context, event *eventsv1.Event, count int32) (int32, error) {
	if count == 0 {
		err := e.create(ctx, event)
		if err == nil || !apierrors.IsAlreadyExists(err) {
			return 1, err
		}
		if count, err = e.patch(ctx, event.Name, nil); err != nil {
			return 0, err
		}
	}
	count, err := e.patch(ctx, event.Name, &eventsv1.EventSeries{Count: count + 1, LastObservedTime: event.EventTime})
	if apierrors.IsNotFound(err) { // the API server has deleted it
		return 1, e.create(ctx, event)
	}
	return count, err
}

func (e *Events) create(ctx context.Context, event *eventsv1.Event) error {
	body, err := json.Marshal(event)
	if err != nil {
		return fmt.Errorf("encoding an Event: %w", err)
	}
	return e.client.Post().Namespace(event.Namespace).Resource("events").Body(body).Timeout(requestTimeout).Do(ctx).Error()
}

// patch sets an Event's series, unless that is nil, and returns its count. An agent may not get
// Events, but the answer to a patch is one.
func (e *Events) patch(ctx context.Context, name string, series *eventsv1.EventSeries) (int32, error) {
	body, err := json.Marshal(struct {
		Series *eventsv1.EventSeries `json:"series,omitempty"`
	}{series})
	if err != nil {
		return 0, fmt.Errorf("encoding a series: %w", err)
	}
	request := e.client.Patch(types.MergePatchType).Namespace(metav1.NamespaceDefault).Resource("events").Name(name)
	answer, err := nodes.RawBody(request.Body(body).Timeout(requestTimeout).Do(ctx))
	if err != nil {
		return 0, err
	}
	var event eventsv1.Event
	if err := json.Unmarshal(answer, &event); err != nil {
		return 0, fmt.Errorf("reading an Event: %w", err)
	}
	if event.Series == nil {
		return 1, nil
	}
	return event.Series.Count, nil
}
