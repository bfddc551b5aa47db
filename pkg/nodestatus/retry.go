package nodestatus

import (
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// minRetryWait follows each attempt, whose outcome arrives with the watch.
	minRetryWait = time.Second
	// maxRetryWait limits a patch that is refused, or reverted by another writer, to one
	// request a minute.
	maxRetryWait = time.Minute
	// maxSilentReverts is how often another writer may revert the patch before it is reported.
	maxSilentReverts = 5
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
	case r.err != nil && (apierrors.IsForbidden(r.err) || apierrors.IsInvalid(r.err)):
		return r.name + ": " + r.err.Error() + " (" + r.refused + ")"
	case r.err != nil:
		return r.name + ": " + r.err.Error()
	case r.made > maxSilentReverts:
		return r.name + ": " + r.reverted
	}
	return ""
}
