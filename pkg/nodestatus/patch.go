package nodestatus

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/plainroute/plainroute/pkg/nodes"
	"github.com/plainroute/plainroute/pkg/topology"
)

// A nodePatch is one change to this node's own Node.
type nodePatch struct {
	name     string // a gerund and its object
	reverted string // what is wrong if another writer keeps reverting it

	// needed reports whether the Node lacks the change.
	needed func(*nodes.OwnState) bool
	// patch returns a patch that changes nothing else, and fails if the Node was deleted and
	// created again.
	patch func(*nodes.OwnState) (kind types.PatchType, change any, subresource string)
}

// networkAvailable sets the condition NetworkUnavailable to False. While it is True, the node
// lifecycle controller keeps a taint on the Node (nodeConditionToTaintKeyStatusMap of
// k8s.io/kubernetes/pkg/controller/nodelifecycle). A False of another writer is as good. The
// patch merges by the condition's type, so that it keeps all other conditions.
func networkAvailable() nodePatch {
	return nodePatch{
		name:     "setting the condition NetworkUnavailable=False of our Node",
		reverted: "another writer keeps reverting it; is a cloud's route controller on (--configure-cloud-routes)?",
		needed:   func(s *nodes.OwnState) bool { return s.NetworkUnavailable != corev1.ConditionFalse },
		patch: func(s *nodes.OwnState) (types.PatchType, any, string) {
			now := metav1.Now()
			return types.StrategicMergePatchType, map[string]any{
				"metadata": map[string]any{"uid": s.UID},
				"status": map[string]any{"conditions": []corev1.NodeCondition{{
					Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionFalse,
					Reason: topology.ConditionReason, Message: "plainroute serves this node's pods",
					LastHeartbeatTime: now, LastTransitionTime: now,
				}}},
			}, "status"
		},
	}
}

// startupTaint removes the taint that Nodes are registered with to keep pods away until the
// network is there. The patch removes each taint of the key, the last one first, and tests that
// it is still at its index: taints are one list, which others change too.
func startupTaint(key string) nodePatch {
	type op struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value,omitempty"`
	}
	return nodePatch{
		name:     "removing the taint " + key + " from our Node",
		reverted: "another writer keeps adding it",
		needed: func(s *nodes.OwnState) bool {
			return slices.ContainsFunc(s.Taints, func(t nodes.Taint) bool { return t.Key == key })
		},
		patch: func(s *nodes.OwnState) (types.PatchType, any, string) {
			ops := []op{{"test", "/metadata/uid", s.UID}}
			for i, t := range slices.Backward(s.Taints) {
				if t.Key == key {
					at := fmt.Sprintf("/spec/taints/%d", i)
					ops = append(ops, op{"test", at + "/key", key}, op{"test", at + "/effect", t.Effect}, op{"remove", at, nil})
				}
			}
			return types.JSONPatchType, ops, ""
		},
	}
}

const (
	minRetryWait = time.Second // follows each attempt, whose outcome arrives with the watch
	// maxRetryWait limits a patch that is refused, or reverted by another writer, to one
	// request a minute.
	maxRetryWait     = time.Minute
	maxSilentReverts = 5 // how often another writer may revert the patch before it is reported
)

// retryState is a nodePatch and the attempts at it.
type retryState struct {
	nodePatch
	uid      types.UID // of the Node that the attempts were made on
	attempts int
	made     int // attempts that succeeded
	last     time.Time
	err      error  // of the last attempt
	problem  string // guarded by Writer.mu
}

func newRetryState(p nodePatch) *retryState { return &retryState{nodePatch: p} }

// attempt calls do unless the wait after the last attempt is not over. It returns what is
// wrong, and when to call again. Waits double, and are reset once no attempt was needed for
// twice the longest wait, or if the Node is another.
func (r *retryState) attempt(now time.Time, uid types.UID, do func() error) (problem string, wait time.Duration) {
	if now.Sub(r.last) > 2*maxRetryWait || r.uid != uid {
		r.attempts, r.made, r.uid = 0, 0, uid
	}
	if wait := r.wait() - now.Sub(r.last); r.attempts > 0 && wait > 0 {
		return r.message(), wait
	}
	r.attempts++
	if r.err = do(); r.err == nil {
		r.made++
	}
	r.last = now
	return r.message(), r.wait()
}

// idle returns what is wrong while no attempt is needed, and when to call again. While another
// writer keeps reverting the patch, that is reported once, not after every attempt.
func (r *retryState) idle(now time.Time) (problem string, wait time.Duration) {
	r.err = nil
	if wait = 2*maxRetryWait - now.Sub(r.last); r.made <= maxSilentReverts || wait <= 0 {
		return "", 0
	}
	return r.message(), wait
}

func (r *retryState) wait() time.Duration {
	return min(minRetryWait<<min(r.attempts, 10)/2, maxRetryWait)
}

func (r *retryState) message() string {
	switch {
	case apierrors.IsInvalid(r.err) && r.attempts < 2:
		return "" // the Node has changed since the last watch event
	case r.err != nil:
		return r.name + ": " + r.err.Error()
	case r.made > maxSilentReverts:
		return r.name + ": " + r.reverted
	}
	return ""
}
