package nodestatus

import (
	"fmt"
	"hash/fnv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/text"
	"github.com/plainroute/plainroute/pkg/topology"
)

// Limits of the API server in bytes (NoteLengthLimit and ReportingInstanceLengthLimit of
// k8s.io/kubernetes/pkg/apis/core/validation/events.go; names are subdomains, RFC 1123).
const (
	noteLimit     = 1024
	instanceLimit = 128
	nameLimit     = 253
)

// notesOf returns the notes of this node's Problems by Reason. It leaves out the Problems of
// peers, about which 5,000 nodes would write the same.
func notesOf(problems []problem.Problem, node string) map[problem.Reason]string {
	byReason := map[problem.Reason][]problem.Problem{}
	for _, p := range problems {
		if p.IsEvent(node) {
			byReason[p.Reason] = append(byReason[p.Reason], p)
		}
	}
	notes := make(map[problem.Reason]string, len(byReason))
	for reason, all := range byReason {
		notes[reason] = all[0].Line(len(all)-1, noteLimit)
	}
	return notes
}

// newEvent returns an Event about a Node. Its name is a hash of its content, so that a repetition,
// also by another agent, has the same name.
func newEvent(node string, reason problem.Reason, note string, now time.Time) *eventsv1.Event {
	kind := corev1.EventTypeWarning
	if reason == problem.PodNetworkReady {
		kind = corev1.EventTypeNormal
	}
	return &eventsv1.Event{
		TypeMeta:   metav1.TypeMeta{APIVersion: eventsv1.SchemeGroupVersion.String(), Kind: "Event"},
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: eventName(node, reason, note)},
		EventTime:  metav1.NewMicroTime(now), Type: kind, Reason: string(reason), Note: note, Action: "ServePods",
		ReportingController: topology.EventSource, ReportingInstance: text.Shorten(node, instanceLimit),
		// `kubectl describe node` searches for the Node's UID and for its name in place of one
		// (NodeDescriber of k8s.io/kubectl/pkg/describe). The name is valid as well while the
		// Node is missing or after it was created again.
		Regarding: corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: node, UID: types.UID(node)},
	}
}

func eventName(node string, reason problem.Reason, note string) string {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s\n%s\n%s", node, reason, note)
	suffix := fmt.Sprintf(".%016x", h.Sum64())
	return strings.TrimRight(node[:min(len(node), nameLimit-len(suffix))], ".-") + suffix
}
