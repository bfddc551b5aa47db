// Package nodestatus writes this node's state to the API server: a condition and a taint of
// its own Node, and Events about that Node.
package nodestatus

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/idle"
	"github.com/plainroute/plainroute/pkg/nodes"
	"github.com/plainroute/plainroute/pkg/problem"
)

const requestTimeout = 10 * time.Second // bounds one request

// Writer marks the network of this node's own Node as available: it sets the condition
// NetworkUnavailable to False, and removes a taint. It never reverts that, because a short
// failure must not evict pods.
//
// It works in a goroutine of its own, so that no route waits for the API server.
type Writer struct {
	client  rest.Interface
	node    string
	patches []*retryState
	news    chan struct{}
	notify  func()

	mu    sync.Mutex
	ready bool
	own   *nodes.OwnState
}

// NewWriter returns a Writer for the Node of a name. It sets the condition if condition is
// true, and removes taints with the key taintKey unless that is empty.
func NewWriter(config *rest.Config, node string, condition bool, taintKey string) (*Writer, error) {
	client, err := nodes.NewClient(config)
	if err != nil {
		return nil, fmt.Errorf("making a client for our own Node: %w", err)
	}
	w := &Writer{client: client, node: node, news: make(chan struct{}, 1)}
	if condition {
		w.patches = append(w.patches, newRetryState(networkAvailable()))
	}
	if taintKey != "" {
		w.patches = append(w.patches, newRetryState(startupTaint(taintKey)))
	}
	return w, nil
}

// Update passes on the outcome of a pass: whether this node is ready, and the state of its
// own Node, nil if there is none.
func (w *Writer) Update(ready bool, own *nodes.OwnState) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ready == w.ready && own.Equal(w.own) {
		return
	}
	w.ready, w.own = ready, own
	idle.Signal(w.news)
}

// Problems returns a Problem for each patch that fails, or that another writer keeps
// reverting. None of them blocks readiness.
func (w *Writer) Problems() []problem.Problem {
	w.mu.Lock()
	defer w.mu.Unlock()
	var problems []problem.Problem
	for _, r := range w.patches {
		if r.problem != "" {
			problems = append(problems, problem.Problem{Subject: problem.Node(w.node), Reason: problem.NodeUpdateFailed, Message: r.problem})
		}
	}
	return problems
}

// Run writes until ctx ends, and calls notify when Problems changes.
func (w *Writer) Run(ctx context.Context, notify func()) {
	w.notify = notify
	idle.Repeat(ctx, w.news, w.sync)
}

// sync sends the patches that are due, and returns when to call it again, 0: after the next Update.
func (w *Writer) sync(ctx context.Context) time.Duration {
	w.mu.Lock()
	ready, own := w.ready, w.own
	w.mu.Unlock()
	waits := make([]time.Duration, 0, len(w.patches))
	for _, r := range w.patches {
		problem, wait := r.idle(time.Now())
		if ready && own != nil && r.needed(own) {
			problem, wait = r.attempt(time.Now(), own.UID, func() error { return w.send(ctx, r.nodePatch, own) })
		}
		w.record(r, problem)
		waits = append(waits, wait)
	}
	return idle.Soonest(waits...)
}

func (w *Writer) record(r *retryState, problem string) {
	w.mu.Lock()
	changed := r.problem != problem
	r.problem = problem
	w.mu.Unlock()
	if changed {
		w.notify()
	}
}

func (w *Writer) send(ctx context.Context, p nodePatch, own *nodes.OwnState) error {
	kind, change, subresource := p.patch(own)
	body, err := json.Marshal(change)
	if err != nil {
		return fmt.Errorf("encoding a patch: %w", err)
	}
	request := w.client.Patch(kind).Resource("nodes").Name(w.node).Body(body).Timeout(requestTimeout)
	if subresource != "" {
		request = request.SubResource(subresource)
	}
	switch err = request.Do(ctx).Error(); {
	case err == nil:
		logr.FromContextOrDiscard(ctx).Info("Patched our Node", "for", p.name)
	case apierrors.IsNotFound(err):
		return nil // the next Update follows: the Node comes back, or this node is not ready
	}
	return nodes.StableError(err)
}
