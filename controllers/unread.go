package controllers

import (
	"fmt"
	"time"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// unreadAfter is longer than a new CNI config takes to show in the Node: the runtime sees it
// at once (inotify), its kubelet asks every 5 s, and writes its Node every 10 s.
const unreadAfter = 30 * time.Second

// An unreadConfig notices that the container runtime does not load our CNI config: the config
// is in place, and the kubelet goes on saying that the runtime has no pod network.
type unreadConfig struct {
	now   func() time.Time
	since time.Time // when both became so; zero: they are not
}

// look returns the Problem once that has lasted, and until then how long to wait for it.
func (u *unreadConfig) look(result *status.Result, s *standing, path string) ([]topology.Problem, time.Duration) {
	written := result.Known && result.Desired.CNI != nil && !result.Undone.Has(plan.KindCNI) && len(result.Blocking()) == 0
	if s == nil || !s.noNetwork || !written {
		u.since = time.Time{}
		return nil, 0
	}
	if u.since.IsZero() {
		u.since = u.now()
	}
	if wait := unreadAfter - u.now().Sub(u.since); wait > 0 {
		return nil, wait
	}
	return []topology.Problem{{
		Node: result.Node, Reason: topology.CNIUnread, Own: true, Detail: fmt.Sprintf(
			"our CNI config is in place, at %s as this agent sees it, and the kubelet says that the container runtime has no pod network (%s); the runtime may read another folder", path, networkNotReady),
	}}, 0
}
