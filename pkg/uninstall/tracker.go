package uninstall

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/plainroute/plainroute/pkg/cleanup"
)

// stage is the progress of a node. It only grows, so that repeated failures don't count as
// progress.
type stage int

const (
	waiting stage = iota
	placed        // the node has a pod
	started       // cleanup runs, or has run
	clean
)

// nodeState is the progress of a node, and what its pod has reported.
type nodeState struct {
	stage   stage
	pod     *corev1.Pod
	summary cleanup.Summary
	ended   *corev1.ContainerStateTerminated // how the cleanup last ended
}

// tracker tracks the progress of all nodes.
type tracker struct {
	notify      func(string, ...any)
	states      map[string]*nodeState
	progress    time.Time // the last progress of any node
	notified    time.Time
	done        int
	interrupted bool // the nodes that are left were not waited for
}

func newTracker(u *Uninstall, nodes map[string]*corev1.Node) *tracker {
	f := &tracker{notify: u.Notify, states: make(map[string]*nodeState, len(nodes)), progress: time.Now()}
	for name := range nodes {
		f.states[name] = &nodeState{}
	}
	return f
}

// left counts the nodes that are not clean.
func (f *tracker) left() int { return len(f.states) - f.done }

// update evaluates the pods. A node may have joined meanwhile.
func (f *tracker) update(pods map[string]*corev1.Pod) {
	for name, pod := range pods {
		v := f.states[name]
		if v == nil {
			v = &nodeState{}
			f.states[name] = v
		}
		if v.stage == clean {
			continue
		}
		if at := v.update(pod); at > v.stage {
			v.stage, f.progress = at, time.Now()
			if at == clean {
				f.done++
				f.notifyDone(name)
			}
		}
	}
}

const (
	fewNodes       = 100 // the largest number of nodes that are reported one by one
	notifyInterval = 5 * time.Second
)

func (f *tracker) notifyDone(name string) {
	switch {
	case len(f.states) <= fewNodes:
		f.notify("%s: done (%d of %d)", name, f.done, len(f.states))
	case time.Since(f.notified) > notifyInterval || f.left() == 0:
		f.notified = time.Now()
		f.notify("done: %d of %d", f.done, len(f.states))
	}
}

// update evaluates the pod, and returns the stage of its node.
func (v *nodeState) update(pod *corev1.Pod) stage {
	v.pod = pod
	i := slices.IndexFunc(pod.Status.InitContainerStatuses, func(s corev1.ContainerStatus) bool { return s.Name == cleaner })
	if i < 0 {
		return placed
	}
	now, last := pod.Status.InitContainerStatuses[i].State, pod.Status.InitContainerStatuses[i].LastTerminationState
	ended := cmp.Or(now.Terminated, last.Terminated)
	switch {
	case ended == nil && now.Running != nil:
		return started
	case ended == nil:
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

// reason returns why a node is not clean.
func (v *nodeState) reason(node *corev1.Node) string {
	switch {
	case node == nil:
		return "the Node no longer exists"
	case v.ended != nil && v.summary.Refused:
		return "refused: " + v.summary.Error
	case v.ended != nil && v.summary.Error != "":
		return v.summary.Error
	case v.ended != nil:
		return fmt.Sprintf("cleanup ended with code %d (%s)", v.ended.ExitCode, v.ended.Reason)
	case unresponsive(node):
		return "the node does not answer"
	case v.pod == nil:
		return "it has no pod (kubectl describe daemonsets -A -l " + nameLabel + "=" + Name + ")"
	case v.stage == started:
		return "cleanup has not ended"
	}
	return "its pod has not started" + detail(v.pod)
}

// unresponsive reports whether the kubelet has stopped updating the status. NotReady alone proves
// nothing, because the node's network is gone.
func unresponsive(node *corev1.Node) bool {
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
