package controllers

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// Events tells of this node's faults by Events of its Node, for whoever looks at that
// with kubectl. It works beside the loop, as the Herald does.
//
// The recorder of client-go (tools/events) would queue what happened, try each twelve
// times, keep the words of the first of a series, and all nodes would speak at once.
// Here nothing is queued: what is told is what is true when its turn has come.
type Events struct {
	client rest.Interface
	node   string
	now    func() time.Time
	agenda *agenda
	news   chan struct{}
	lost   int // Events that could not be told since one was

	mu     sync.Mutex
	faults map[topology.Reason]string
	ready  bool
	nodes  int
}

// NewEvents makes one for our own Node.
func NewEvents(config *rest.Config, node string) (*Events, error) {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, eventsv1.SchemeGroupVersion)
	c := rest.CopyConfig(config)
	c.APIPath, c.GroupVersion = "/apis", &eventsv1.SchemeGroupVersion
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	c.AcceptContentTypes = runtime.ContentTypeJSON // which patch reads
	client, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("making a client for Events: %w", err)
	}
	return &Events{client: client, node: node, now: time.Now, agenda: newAgenda(rand.Float64), news: make(chan struct{}, 1)}, nil
}

// tell says how things are after a pass.
func (e *Events) tell(r *status.Result) {
	if e == nil {
		return
	}
	faults := faultsOf(r.Problems, e.node)
	e.mu.Lock()
	defer e.mu.Unlock()
	if r.Ready == e.ready && len(r.Nodes) == e.nodes && maps.Equal(faults, e.faults) {
		return
	}
	e.faults, e.ready, e.nodes = faults, r.Ready, len(r.Nodes)
	signal(e.news)
}

// Start works until ctx ends.
func (e *Events) Start(ctx context.Context) error {
	rounds(ctx, e.news, e.round)
	return nil
}

// round tells what is to be told now, and returns when to look again; 0: at the next
// news.
func (e *Events) round(ctx context.Context) time.Duration {
	for {
		now := e.now()
		e.mu.Lock()
		faults, ready, nodes := e.faults, e.ready, e.nodes
		e.mu.Unlock()
		e.agenda.look(now, faults, ready, nodes)
		reason, wait := e.agenda.next(now)
		if reason == "" {
			return wait
		}
		err := e.post(ctx, reason, e.agenda.tales[reason])
		if ctx.Err() != nil {
			return 0
		}
		e.agenda.done(e.now(), reason, err)
		e.note(ctx, reason, err)
	}
}

// note says in the log that Events are lost: once, and how many when they arrive again.
func (e *Events) note(ctx context.Context, reason topology.Reason, err error) {
	logger := log.FromContext(ctx)
	switch {
	case err != nil && e.lost == 0:
		logger.Info("Event not told", "reason", reason, "error", essence(err).Error())
		e.lost++
	case err != nil:
		e.lost++
	case e.lost > 0:
		logger.Info("Events are told again", "lost", e.lost)
		e.lost = 0
	}
}

// post tells a tale, and counts how often it was told in the same words.
func (e *Events) post(ctx context.Context, reason topology.Reason, t *tale) error {
	if t.counted != t.note {
		t.count, t.counted = 0, t.note
	}
	event := eventOf(e.node, reason, t.note, e.now())
	count, err := e.send(ctx, event, t.count)
	if err == nil {
		t.count = count
	}
	return err
}

// send makes an Event, or counts up one that is there: told by us so many times, or by
// the agent before us. It returns how often it was told.
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
	if apierrors.IsNotFound(err) { // forgotten
		return 1, e.create(ctx, event)
	}
	return count, err
}

func (e *Events) create(ctx context.Context, event *eventsv1.Event) error {
	body, err := json.Marshal(event)
	if err != nil {
		return fmt.Errorf("encoding an Event: %w", err)
	}
	return e.client.Post().Namespace(event.Namespace).Resource("events").Body(body).Timeout(patchLimit).Do(ctx).Error()
}

// patch sets an Event's series; nil: leaves all as it is. It returns how often the
// Event was told; we may not read Events, but the answer to a patch is one.
func (e *Events) patch(ctx context.Context, name string, series *eventsv1.EventSeries) (int32, error) {
	change := map[string]any{}
	if series != nil {
		change["series"] = series
	}
	body, err := json.Marshal(change)
	if err != nil {
		return 0, fmt.Errorf("encoding a series: %w", err)
	}
	answer, err := rawOf(e.client.Patch(types.MergePatchType).Namespace(metav1.NamespaceDefault).Resource("events").Name(name).Body(body).Timeout(patchLimit).Do(ctx))
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
