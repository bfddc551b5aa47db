package controllers

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Herald tells the cluster that this node's network works, where that is asked for:
// by the condition NetworkUnavailable, and by taking a taint away. It only ever says
// so, and never takes it back: a fault that passes must not drive pods away.
//
// It works beside the loop, which only tells it how things are: no route waits for
// the API server.
type Herald struct {
	client rest.Interface
	node   string
	duties []*duty
	news   chan struct{}
	notify func()

	mu       sync.Mutex
	ready    bool
	standing *standing
}

// NewHerald makes one for our own Node. It keeps the condition if asked to, and takes
// away the taint of a key, unless that is empty.
func NewHerald(config *rest.Config, node string, condition bool, taintKey string) (*Herald, error) {
	client, err := nodesClient(config)
	if err != nil {
		return nil, fmt.Errorf("making a client for our own Node: %w", err)
	}
	h := &Herald{client: client, node: node, news: make(chan struct{}, 1)}
	if condition {
		h.duties = append(h.duties, newDuty(networkAvailable{}))
	}
	if taintKey != "" {
		h.duties = append(h.duties, newDuty(startupTaint(taintKey)))
	}
	return h, nil
}

// tell says how our own Node stood when a pass found this node ready, or not.
func (h *Herald) tell(ready bool, s *standing) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if ready == h.ready && s.equal(h.standing) {
		return
	}
	h.ready, h.standing = ready, s
	signal(h.news)
}

// problems says what the API server keeps it from, and who undoes it. None of that
// keeps this node's pods from being served.
func (h *Herald) problems() []topology.Problem {
	if h == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var problems []topology.Problem
	for _, d := range h.duties {
		if d.trouble != "" {
			problems = append(problems, topology.Problem{Node: h.node, Reason: topology.NodeUpdateFailed, Detail: d.trouble})
		}
	}
	return problems
}

// Start works until ctx ends.
func (h *Herald) Start(ctx context.Context) error {
	rounds(ctx, h.news, h.round)
	return nil
}

// rounds makes a round at each news, and when the one before asked for it, until ctx ends. 0: at the next news.
func rounds(ctx context.Context, news <-chan struct{}, round func(context.Context) time.Duration) {
	for {
		var again <-chan time.Time
		if wait := round(ctx); wait > 0 {
			again = time.After(wait)
		}
		select {
		case <-news:
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}

// round does each duty whose time has come, and returns when to look again; 0: at
// the next news.
func (h *Herald) round(ctx context.Context) time.Duration {
	h.mu.Lock()
	ready, now := h.ready, h.standing
	h.mu.Unlock()
	waits := make([]time.Duration, 0, len(h.duties))
	for _, d := range h.duties {
		trouble, wait := d.rest(time.Now())
		if ready && now != nil && d.wanting(now) {
			trouble, wait = d.attempt(time.Now(), now.uid, func() error { return h.patch(ctx, d.proclamation, now) })
		}
		h.note(d, trouble)
		waits = append(waits, wait)
	}
	return soonest(waits...)
}

// note has a pass tell what is new.
func (h *Herald) note(d *duty, trouble string) {
	h.mu.Lock()
	changed := d.trouble != trouble
	d.trouble = trouble
	h.mu.Unlock()
	if changed {
		h.notify()
	}
}

// patchLimit bounds a request.
const patchLimit = 10 * time.Second

func (h *Herald) patch(ctx context.Context, p proclamation, s *standing) error {
	kind, change, subresource := p.patch(s)
	body, err := json.Marshal(change)
	if err != nil {
		return fmt.Errorf("encoding a patch: %w", err)
	}
	request := h.client.Patch(kind).Resource("nodes").Name(h.node).Body(body).Timeout(patchLimit)
	if subresource != "" {
		request = request.SubResource(subresource)
	}
	switch err = request.Do(ctx).Error(); {
	case err == nil:
		log.FromContext(ctx).Info("Patched our Node", "for", p.String())
	case apierrors.IsNotFound(err):
		return nil // it comes back, or we are not ready soon
	}
	return essence(err)
}

// A proclamation is one thing to tell.
type proclamation interface {
	// wanting tells whether it is still to be told.
	wanting(*standing) bool
	// patch changes nothing but that, and nothing of a Node that was made anew since.
	patch(*standing) (kind types.PatchType, change any, subresource string)
	// String names it, and advice says what to do if the API server refuses, undone if
	// somebody undoes it.
	String() string
	advice() string
	undone() string
}

// networkAvailable is the condition of which the node lifecycle controller makes a
// taint where it is True (nodeConditionToTaintKeyStatusMap of
// k8s.io/kubernetes/pkg/controller/nodelifecycle). Somebody else's False is as good.
type networkAvailable struct{}

func (networkAvailable) wanting(s *standing) bool { return s.unavailable != corev1.ConditionFalse }

// patch merges by the condition's type, so that it can lose nobody else's.
func (networkAvailable) patch(s *standing) (types.PatchType, any, string) {
	now := metav1.Now()
	return types.StrategicMergePatchType, map[string]any{
		"metadata": map[string]any{"uid": s.uid},
		"status": map[string]any{"conditions": []corev1.NodeCondition{{
			Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionFalse,
			Reason: topology.ConditionReason, Message: "plainroute serves this node's pods",
			LastHeartbeatTime: now, LastTransitionTime: now,
		}}},
	}, "status"
}

func (networkAvailable) String() string {
	return "setting the condition NetworkUnavailable=False of our Node"
}

func (networkAvailable) advice() string {
	return "let the agent patch nodes/status of its own Node, or leave out --node-condition"
}

func (networkAvailable) undone() string {
	return "somebody sets it back again and again; is a cloud's route controller on (--configure-cloud-routes)?"
}

// startupTaint is the key of the taint that Nodes are registered with to keep pods
// away until there is a network.
type startupTaint string

func (k startupTaint) wanting(s *standing) bool {
	for _, t := range s.taints {
		if t.key == string(k) {
			return true
		}
	}
	return false
}

// patch takes away each taint of the key from behind, and tests that it is still where
// it was: taints are one list, which others change too.
func (k startupTaint) patch(s *standing) (types.PatchType, any, string) {
	type op struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value,omitempty"`
	}
	ops := []op{{"test", "/metadata/uid", s.uid}}
	for i := len(s.taints) - 1; i >= 0; i-- {
		if s.taints[i].key != string(k) {
			continue
		}
		at := fmt.Sprintf("/spec/taints/%d", i)
		ops = append(ops, op{"test", at + "/key", k}, op{"test", at + "/effect", s.taints[i].effect}, op{"remove", at, nil})
	}
	return types.JSONPatchType, ops, ""
}

func (k startupTaint) String() string { return "removing the taint " + string(k) + " from our Node" }

func (startupTaint) advice() string {
	return "let the agent patch its own Node, or leave out --startup-taint"
}

func (startupTaint) undone() string { return "somebody adds it again and again" }
