package controllers

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

// NodeSource keeps the Nodes of the API server, as far as they matter to routes.
//
// It is a reflector with a store of our own rather than the manager's cache,
// whose informer backs off for up to a minute, and gives up when there is no API
// server for two.
type NodeSource struct {
	// Own is the Node whose standing is looked at too; empty: none. It is set before Run.
	Own string

	client rest.Interface
	ignore labels.Selector
	notify func()
	ask    chan struct{} // for a confirmation

	heard   atomic.Int64 // when the API server last sent anything, in nanoseconds
	watches atomic.Int32 // that are open

	mu        sync.Mutex
	nodes     []*topology.Node // never changed in place: passes read them
	index     map[string]int
	bare      map[string]string // versions of Nodes without pod subnets
	synced    bool
	lastErr   error
	pending   time.Time // when the oldest change that no pass has seen arrived
	listing   bool      // the list under way comes from the server's cache, however old
	cached    bool      // the last one did, and nothing has confirmed it
	lists     int       // how many have arrived
	confirmed time.Time // when the last quorum read that agreed began
	doubt     error     // why it did not
	doubted   time.Time // when somebody began to need one
	standing  *standing // of our own Node, if Own says so and there is one
}

// NewNodeSource makes a source that reads through the config. Nodes that ignore
// selects are no peers; nil selects none.
func NewNodeSource(config *rest.Config, ignore labels.Selector) (*NodeSource, error) {
	client, err := nodesClient(config)
	if err != nil {
		return nil, fmt.Errorf("making a client for Nodes: %w", err)
	}
	if ignore == nil {
		ignore = labels.Nothing()
	}
	return &NodeSource{
		client: client, ignore: ignore, ask: make(chan struct{}, 1),
		index: map[string]int{}, bare: map[string]string{},
	}, nil
}

// View is what is known of the Nodes.
type View struct {
	// Nodes must not be changed.
	Nodes []*topology.Node
	// Synced tells that a full list has arrived since the start.
	Synced bool
	// Err is why the API server can't be asked just now, or nil.
	Err error
	// Since is when the oldest change in this view arrived that the view before
	// did not have; zero: nothing changed.
	Since time.Time
	// Cached tells that the Nodes were listed from the server's cache, which may be
	// of any age, and that nothing has confirmed them since.
	Cached bool
	// Confirmed is when the last quorum read that agreed began; Doubt is why the last
	// one did not.
	Confirmed time.Time
	Doubt     error
	// Heard is when the API server last sent anything; zero: never.
	Heard time.Time

	standing *standing
}

// View returns what is known, and begins a new account of what changed.
func (s *NodeSource) View() View {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := View{
		Nodes: slices.Clone(s.nodes), Synced: s.synced, Err: s.lastErr, Since: s.pending,
		Cached: s.cached, Confirmed: s.confirmed, Doubt: s.doubt, Heard: s.heardAt(), standing: s.standing,
	}
	s.pending = time.Time{}
	return v
}

// Run keeps the view up to date until ctx ends, and calls notify after each
// change that matters: a heartbeat doesn't. Without an API server it waits for
// as long as it takes.
func (s *NodeSource) Run(ctx context.Context, notify func()) {
	s.notify = notify
	go s.confirmations(ctx)
	patience := patientClock{source: s}
	backoff := newBackoff()
	reflector := cache.NewReflectorWithOptions(s.listerWatcher(), &wireNode{}, s, cache.ReflectorOptions{
		Name: "nodes", TypeDescription: "Node", Clock: patience, Backoff: &backoff,
	})
	delay := backoff.DelayWithReset(patience, time.Minute)
	for ctx.Err() == nil {
		_ = reflector.ListAndWatchWithContext(ctx) // listerWatcher has noted it
		select {
		case <-patience.After(delay()):
		case <-ctx.Done():
		}
	}
}

// newBackoff spreads agents that lost their API server together: jitter makes a
// wait up to twice as long.
func newBackoff() wait.Backoff {
	return wait.Backoff{Duration: 200 * time.Millisecond, Cap: maxBackoff / 2, Steps: 20, Factor: 2, Jitter: 1}
}

const (
	// maxBackoff is the longest wait between tries in a small cluster.
	maxBackoff = 2500 * time.Millisecond
	// Up to fewNodes we are back soon; manyNodes make us wait twelve times as long,
	// 30 s at most: that many agents listing that many Nodes at once would be
	// hundreds of gigabytes.
	fewNodes  = 1000
	manyNodes = 5000
	patience  = 12
)

// patientClock stretches the reflector's waits with the size of the cluster.
// Backoffs can't be changed once a reflector has them; its clock can.
type patientClock struct {
	clock.RealClock
	source *NodeSource
}

// After is how the reflector waits.
func (c patientClock) After(d time.Duration) <-chan time.Time {
	return time.After(c.stretch(d))
}

func (c patientClock) stretch(d time.Duration) time.Duration {
	c.source.mu.Lock()
	n := min(max(len(c.source.nodes), fewNodes), manyNodes) - fewNodes
	c.source.mu.Unlock()
	return d + d*time.Duration((patience-1)*n)/(manyNodes-fewNodes)
}

// listerWatcher remembers errors that the reflector only retries.
func (s *NodeSource) listerWatcher() cache.ListerWatcher {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
			s.began(opts)
			list := &wireNodeList{own: s.Own}
			err := s.client.Get().Resource("nodes").VersionedParams(&opts, metav1.ParameterCodec).Do(ctx).Into(list)
			s.failed(err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
			opts.Watch = true
			s.began(opts)
			body, err := s.client.Get().Resource("nodes").VersionedParams(&opts, metav1.ParameterCodec).Stream(ctx)
			s.failed(err)
			if err != nil {
				return nil, err
			}
			reporter := apierrors.NewClientErrorReporter(http.StatusInternalServerError, "GET", "ClientWatchDecoding")
			stream := newWireStream(body)
			stream.own, stream.hear = s.Own, s.hear
			s.watches.Add(1)
			stream.over = func() { s.watches.Add(-1) }
			return watch.NewStreamWatcherWithLogger(klog.FromContext(ctx), stream, reporter), nil
		},
	}
}

// began notes where the list comes from that is to arrive next. Of a paged one, the first page tells. Only
// version "0" lets the server answer with something older than what we have seen
// (the Kubernetes API concepts, semantics for get and list); a streamed list is as
// fresh as a quorum read (KEP-3157).
func (s *NodeSource) began(opts metav1.ListOptions) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if opts.Continue == "" {
		s.listing = opts.ResourceVersion == "0"
	}
}

// failed remembers why the API server can't be asked, nil: it can. A change of
// that is news before the first list only; later, what is known still holds.
func (s *NodeSource) failed(err error) {
	if err == nil {
		s.hear()
	}
	err = essence(err)
	s.mu.Lock()
	news := !s.synced && err != nil && !sameCause(err, s.lastErr)
	if s.synced || news {
		s.lastErr = err
	}
	s.mu.Unlock()
	if news {
		s.notify()
	}
}

// sameCause tells whether two errors have one cause: who may not watch may not
// list either, which the reflector tries in turn.
func sameCause(a, b error) bool {
	reason := apierrors.ReasonForError(a)
	return fmt.Sprint(a) == fmt.Sprint(b) || reason != metav1.StatusReasonUnknown && reason == apierrors.ReasonForError(b)
}

// essence leaves out of an error what differs at each try, a URL's random
// parameters and our own port, so that one cause is one Problem.
func essence(err error) error {
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

// Transformer makes this a TransformingStore: the reflector's own stores hold
// what is kept only, so a list never stands in memory as it came.
func (s *NodeSource) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) { return s.reduce(obj), nil }
}

// reduce makes a keptNode of a Node, and leaves all else as it is.
func (s *NodeSource) reduce(obj any) any {
	n, ok := obj.(*wireNode)
	if !ok {
		return obj
	}
	kept := &keptNode{ObjectMeta: metav1.ObjectMeta{Name: n.Name, ResourceVersion: n.ResourceVersion}}
	if !s.ignore.Matches(labels.Set(n.Labels)) {
		kept.node = topology.NodeFrom(&n.Node)
	}
	if s.Own != "" && n.Name == s.Own {
		kept.standing = standingOf(&n.Node)
	}
	return kept
}

// keptNode is what the reflector's stores hold of a Node; node is nil where the
// Node is ignored.
type keptNode struct {
	metav1.ObjectMeta
	node     *topology.Node
	standing *standing // of our own Node
}

// keep returns what is kept of what the reflector gives, which for a deletion it
// may have missed is wrapped.
func (s *NodeSource) keep(obj any) (*keptNode, error) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	kept, ok := s.reduce(obj).(*keptNode)
	if !ok {
		return nil, fmt.Errorf("storing Nodes: got a %T", obj)
	}
	return kept, nil
}

// Add stores a Node.
func (s *NodeSource) Add(obj any) error { return s.Update(obj) }

// Update stores a Node; one that gives rise to the same routes is no news.
func (s *NodeSource) Update(obj any) error {
	kept, err := s.keep(obj)
	if err != nil {
		return err
	}
	if kept.node == nil {
		s.forget(kept.Name)
		return nil
	}
	s.change(func() bool {
		s.note(kept)
		i, known := s.index[kept.Name]
		moved := kept.standing != nil && !kept.standing.equal(s.standing)
		if moved {
			s.standing = kept.standing
		}
		switch {
		case !known:
			s.index[kept.Name] = len(s.nodes)
			s.nodes = append(s.nodes, kept.node)
		case s.nodes[i].Equal(kept.node):
			return moved
		default:
			s.nodes[i] = kept.node
		}
		return true
	})
	return nil
}

// Delete forgets a Node.
func (s *NodeSource) Delete(obj any) error {
	kept, err := s.keep(obj)
	if err != nil {
		return err
	}
	s.forget(kept.Name)
	return nil
}

func (s *NodeSource) forget(name string) {
	s.change(func() bool {
		i, known := s.index[name]
		if !known {
			return false
		}
		last := len(s.nodes) - 1
		s.nodes[i] = s.nodes[last]
		s.index[s.nodes[i].Name] = i
		s.nodes = s.nodes[:last]
		delete(s.index, name)
		delete(s.bare, name)
		if name == s.Own {
			s.standing = nil
		}
		return true
	})
}

// Replace takes a full list over. Sorted by pod subnet it is cheapest to sort
// again in each pass.
func (s *NodeSource) Replace(list []any, _ string) error {
	kept := make([]*keptNode, 0, len(list))
	for _, obj := range list {
		k, err := s.keep(obj)
		if err != nil {
			return err
		}
		if k.node != nil {
			kept = append(kept, k)
		}
	}
	slices.SortFunc(kept, func(a, b *keptNode) int { return topology.CompareSubnets(a.node, b.node) })
	s.change(func() bool {
		s.nodes = make([]*topology.Node, len(kept))
		s.standing = nil
		s.index, s.bare = make(map[string]int, len(kept)), map[string]string{}
		for i, k := range kept {
			s.nodes[i], s.index[k.Name] = k.node, i
			if k.standing != nil {
				s.standing = k.standing
			}
			s.note(k)
		}
		s.synced, s.lastErr, s.cached = true, nil, s.listing
		s.lists++
		return true
	})
	return nil
}

// Resync has nothing to do: each pass looks at everything.
func (s *NodeSource) Resync() error { return nil }

func (s *NodeSource) change(f func() bool) {
	s.mu.Lock()
	news := f()
	if news && s.pending.IsZero() {
		s.pending = time.Now()
	}
	s.mu.Unlock()
	if news {
		s.notify()
	}
}
