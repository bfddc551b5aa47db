// Package nodes keeps the Nodes of the API server in memory, as far as they matter to routes.
package nodes

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Source lists and watches Nodes with client-go's reflector and a store of its own. An informer
// backs off for up to a minute, and keeps whole Nodes.
type Source struct {
	Own string // the Node whose OwnState is kept; empty: none; set before Run

	client          rest.Interface
	ignore          labels.Selector
	notify          func()
	confirmRequests chan struct{} // wakes the goroutine that confirms

	lastContact atomic.Int64 // when the API server last sent anything, in nanoseconds
	watches     atomic.Int32 // open ones

	mu           sync.Mutex
	view         View              // of the next call of View, except for Watching and LastContact
	index        map[string]int    // of view.Nodes, whose elements are replaced, never changed: views share them
	bare         map[string]string // resource versions of Nodes without pod subnets
	listing      bool              // the list under way comes from the server's cache
	lists        int               // number of full lists so far
	confirmAfter time.Time         // the time after which a confirmation must begin
	version      string            // resource version that the view is as new as; empty: unknown
	restored     restored
}

// New returns a Source that reads through config. Nodes that ignore selects are left out; a
// nil selector selects none.
func New(config *rest.Config, ignore labels.Selector) (*Source, error) {
	client, err := NewClient(config)
	if err != nil {
		return nil, fmt.Errorf("making a client for Nodes: %w", err)
	}
	if ignore == nil {
		ignore = labels.Nothing()
	}
	return &Source{
		client: client, ignore: ignore, confirmRequests: make(chan struct{}, 1),
		index: map[string]int{}, bare: map[string]string{},
	}, nil
}

// View is a snapshot of the Nodes.
type View struct {
	Health
	Nodes []*topology.Node // must not be changed
	Since time.Time        // when the oldest change arrived that the previous View lacks; zero: nothing changed
	// Cached reports whether the Nodes were listed from the server's cache, which may be of any
	// age, or were restored and the watch has not caught up, and no quorum read has confirmed them since.
	Cached     bool
	Confirmed  time.Time // when the last quorum read that agreed began
	ConfirmErr error     // why the last quorum read did not agree
	Own        *OwnState // of the Node named Source.Own; nil: there is none
	// Grants are those of the run that saved a restored view, until the watch has caught up.
	Grants []topology.Grant
}

// View returns the current Nodes. The next View's Since counts from here.
func (s *Source) View() View {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.view
	v.Health, v.Nodes = s.health(), slices.Clone(v.Nodes)
	s.view.Since = time.Time{}
	return v
}

// Run keeps the view up to date until ctx ends, and calls notify after each change that
// matters: a heartbeat does not. Without an API server it keeps trying.
func (s *Source) Run(ctx context.Context, notify func()) {
	s.notify = notify
	go s.confirmations(ctx)
	scaled := scaledClock{source: s}
	backoff := newBackoff()
	reflector := cache.NewReflectorWithOptions(s.listerWatcher(), &wireNode{}, s, cache.ReflectorOptions{
		Name: "nodes", TypeDescription: "Node", Clock: scaled, Backoff: &backoff,
	})
	delay := backoff.DelayWithReset(scaled, time.Minute)
	for ctx.Err() == nil {
		_ = reflector.ListAndWatchWithContext(ctx) // listerWatcher records the error
		select {
		case <-scaled.After(delay()):
		case <-ctx.Done():
		}
	}
}

// newBackoff spreads the retries of agents that lost their API server together: jitter makes
// a wait up to twice as long.
func newBackoff() wait.Backoff {
	return wait.Backoff{Duration: 200 * time.Millisecond, Cap: maxBackoff / 2, Steps: 20, Factor: 2, Jitter: 1}
}

const (
	maxBackoff = 2500 * time.Millisecond // the longest wait between attempts in a small cluster
	// From fewNodes to manyNodes the waits grow by maxScale, to 30 s: so many agents that
	// list so many Nodes at once would move hundreds of gigabytes.
	fewNodes  = 1000
	manyNodes = 5000
	maxScale  = 12
)

// scaledClock stretches the reflector's waits with the size of the cluster: the backoff of a
// running reflector can't be changed, its clock can.
type scaledClock struct {
	clock.RealClock
	source *Source
}

// After is what the reflector waits with.
func (c scaledClock) After(d time.Duration) <-chan time.Time { return time.After(c.stretch(d)) }

func (c scaledClock) stretch(d time.Duration) time.Duration {
	c.source.mu.Lock()
	n := min(max(len(c.source.view.Nodes), fewNodes), manyNodes) - fewNodes
	c.source.mu.Unlock()
	return d + d*time.Duration((maxScale-1)*n)/(manyNodes-fewNodes)
}

// listerWatcher records the errors that the reflector only retries.
func (s *Source) listerWatcher() cache.ListerWatcher {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
			list := &wireNodeList{own: s.Own}
			if list.ResourceVersion = s.resume(); list.ResourceVersion != "" {
				return list, nil
			}
			s.began(opts)
			err := s.client.Get().Resource("nodes").VersionedParams(&opts, metav1.ParameterCodec).Do(ctx).Into(list)
			s.recordError(err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
			if opts.SendInitialEvents != nil {
				if version := s.resume(); version != "" {
					return emptyStream(version), nil
				}
			}
			if err := s.checkRestored(ctx); err != nil {
				s.recordError(err)
				return nil, err
			}
			opts.Watch = true
			s.began(opts)
			body, err := s.client.Get().Resource("nodes").VersionedParams(&opts, metav1.ParameterCodec).Stream(ctx)
			s.recordError(err)
			if err != nil {
				return nil, err
			}
			reporter := apierrors.NewClientErrorReporter(http.StatusInternalServerError, "GET", "ClientWatchDecoding")
			stream := newWireStream(body)
			stream.own, stream.onEvent = s.Own, s.recordContact
			s.watches.Add(1)
			stream.onClose = func() { s.watches.Add(-1) }
			return watch.NewStreamWatcherWithLogger(klog.FromContext(ctx), stream, reporter), nil
		},
	}
}

// began records where the next list comes from, by the first of its pages. Only version "0" lets
// the server answer with something older than a view has shown (the Kubernetes API concepts,
// semantics for get and list); a streamed list is as fresh as a quorum read (KEP-3157).
func (s *Source) began(opts metav1.ListOptions) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if opts.Continue == "" {
		s.listing = opts.ResourceVersion == "0"
	}
	s.restored.answering = false
}

// Health is the state of the connection to the API server.
type Health struct {
	Synced      bool      // a full list has arrived since the start, or a saved view was restored
	Watching    bool      // a watch is open
	Err         error     // why the last request failed, or nil
	LastContact time.Time // when the API server last sent anything; zero: never
}

// Health returns the current state of the connection to the API server.
func (s *Source) Health() Health {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.health()
}

func (s *Source) health() Health {
	h := s.view.Health
	h.Watching = s.watches.Load() > 0
	if at := s.lastContact.Load(); at != 0 {
		h.LastContact = time.Unix(0, at).UTC()
	}
	return h
}

// recordContact records that the API server has sent something: an answer, an event, or a
// bookmark, which a quiet watch brings about once a minute (defaultBookmarkFrequency of
// k8s.io/apiserver/pkg/storage/cacher).
func (s *Source) recordContact() { s.lastContact.Store(time.Now().UnixNano()) }

// recordError records the outcome of a request. Before the first list, notify is called for
// an error of another cause; later the last list still holds.
func (s *Source) recordError(err error) {
	if err == nil {
		s.recordContact()
	}
	err = StableError(err)
	s.mu.Lock()
	news := !s.view.Synced && err != nil && !sameCause(err, s.view.Err)
	if s.view.Synced || news {
		s.view.Err = err
	}
	if answer := apierrors.APIStatus(nil); err == nil || errors.As(err, &answer) {
		s.restored.version = "" // the server has answered, if only that it has forgotten the version
	}
	s.mu.Unlock()
	if news {
		s.notify()
	}
}

// sameCause reports whether two errors have one cause: a user who may not watch may not list
// either, and the reflector tries both in turn.
func sameCause(a, b error) bool {
	reason := apierrors.ReasonForError(a)
	return fmt.Sprint(a) == fmt.Sprint(b) || reason != metav1.StatusReasonUnknown && reason == apierrors.ReasonForError(b)
}

// StableError removes from the error of a request what differs at each attempt, the random
// parameters of a URL and the local port, so that one cause is one Problem.
func StableError(err error) error {
	var op *net.OpError
	var request *url.Error
	switch {
	case errors.As(err, &op):
		return fmt.Errorf("%s %s %v: %w", op.Op, op.Net, op.Addr, op.Err)
	case errors.As(err, &request):
		return request.Err
	}
	return err
}
