package uninstall

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/plainroute/plainroute/pkg/cleanup"
)

// A stage is how far a node has come. It only grows, so that a pod that fails again
// and again is no progress.
type stage int

const (
	waiting stage = iota
	placed        // there is a pod
	started       // cleanup runs, or ran
	clean
)

// visit is what is known of a node.
type visit struct {
	stage   stage
	pod     *corev1.Pod
	summary cleanup.Summary
	ended   *corev1.ContainerStateTerminated // how the cleanup last ended
}

// follower keeps account of all nodes.
type follower struct {
	say      func(string, ...any)
	visits   map[string]*visit
	progress time.Time // when a node last got on
	told     time.Time
	done     int
	// interrupted tells that nobody has waited for those that are left.
	interrupted bool
}

func newFollower(u *Uninstall, nodes map[string]*corev1.Node) *follower {
	f := &follower{say: u.Say, visits: make(map[string]*visit, len(nodes)), progress: time.Now()}
	for name := range nodes {
		f.visits[name] = &visit{}
	}
	return f
}

// left counts the nodes that are not clean.
func (f *follower) left() int { return len(f.visits) - f.done }

// see takes in how the pods are. A node may have come since the beginning.
func (f *follower) see(pods map[string]*corev1.Pod) {
	for name, pod := range pods {
		v := f.visits[name]
		if v == nil {
			v = &visit{}
			f.visits[name] = v
		}
		if v.stage == clean {
			continue
		}
		if at := v.look(pod); at > v.stage {
			v.stage, f.progress = at, time.Now()
			if at == clean {
				f.done++
				f.tell(name)
			}
		}
	}
}

const (
	// fewNodes are told one by one.
	fewNodes = 100
	telling  = 5 * time.Second
)

func (f *follower) tell(name string) {
	switch {
	case len(f.visits) <= fewNodes:
		f.say("%s: done (%d of %d)", name, f.done, len(f.visits))
	case time.Since(f.told) > telling || f.left() == 0:
		f.told = time.Now()
		f.say("done: %d of %d", f.done, len(f.visits))
	}
}

// look takes in how the pod is, and returns how far it has come.
func (v *visit) look(pod *corev1.Pod) stage {
	v.pod = pod
	i := slices.IndexFunc(pod.Status.InitContainerStatuses, func(s corev1.ContainerStatus) bool { return s.Name == cleaner })
	if i < 0 {
		return placed
	}
	now, last := pod.Status.InitContainerStatuses[i].State, pod.Status.InitContainerStatuses[i].LastTerminationState
	ended := now.Terminated
	if ended == nil {
		ended = last.Terminated
	}
	if ended == nil {
		if now.Running != nil {
			return started
		}
		return placed
	}
	v.ended, v.summary = ended, cleanup.Summary{}
	if err := json.Unmarshal([]byte(ended.Message), &v.summary); err != nil {
		v.summary.Error = strings.TrimSpace(ended.Message)
	}
	if ended.ExitCode == 0 {
		return clean
	}
	return started
}

// why says why a node is not clean.
func (v *visit) why(node *corev1.Node) string {
	switch {
	case node == nil:
		return "there is no such Node any more"
	case v.ended != nil && v.summary.Refused:
		return "refused: " + v.summary.Error
	case v.ended != nil && v.summary.Error != "":
		return v.summary.Error
	case v.ended != nil:
		return fmt.Sprintf("cleanup ended with code %d (%s)", v.ended.ExitCode, v.ended.Reason)
	case silent(node):
		return "the node does not answer"
	case v.pod == nil:
		return "no pod was made for it (kubectl describe daemonsets -A -l " + nameLabel + "=" + Name + ")"
	case v.stage == started:
		return "cleanup has not ended"
	}
	return "its pod has not started" + detail(v.pod)
}

// silent tells whether kubelet has stopped to report. That a node is not Ready is
// what comes of taking its network away.
func silent(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionUnknown
	})
}

func detail(pod *corev1.Pod) string {
	for _, s := range pod.Status.InitContainerStatuses {
		if w := s.State.Waiting; w != nil {
			return fmt.Sprintf(": %s %s", w.Reason, w.Message)
		}
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status != corev1.ConditionTrue {
			return fmt.Sprintf(": %s %s", c.Reason, c.Message)
		}
	}
	return ""
}
