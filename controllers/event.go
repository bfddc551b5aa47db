package controllers

import (
	"fmt"
	"hash/fnv"
	"strings"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// What an API server takes (NoteLengthLimit and ReportingInstanceLengthLimit of
// k8s.io/kubernetes/pkg/apis/core/validation/events.go; names are subdomains, RFC 1123).
const (
	noteLimit     = 1024
	instanceLimit = 128
	nameLimit     = 253
)

// faultsOf returns what is wrong with this node by Reason, in words for an Event. What
// is wrong with peers is not in it: 5,000 nodes would say the same.
func faultsOf(problems []topology.Problem, node string) map[topology.Reason]string {
	var faults map[topology.Reason]string
	more := map[topology.Reason]int{}
	for _, p := range problems {
		if !p.Concerns(node) {
			continue
		}
		if _, found := faults[p.Reason]; found {
			more[p.Reason]++
			continue
		}
		if faults == nil {
			faults = map[topology.Reason]string{}
		}
		faults[p.Reason] = status.Printable(p.Detail)
	}
	for reason, detail := range faults {
		faults[reason] = noteOf(detail, more[reason], reason.Advice())
	}
	return faults
}

// noteOf joins what is wrong and what to do; of both together, the first is cut.
func noteOf(detail string, more int, advice string) string {
	rest := ""
	if more > 0 {
		rest = fmt.Sprintf(" (and %d more of this kind)", more)
	}
	rest += ". What to do: " + advice
	return cut(detail, noteLimit-len(rest)) + rest
}

// cut shortens a text to so many bytes, between two characters.
func cut(text string, limit int) string {
	const dots = "..."
	if len(text) <= limit {
		return text
	}
	end := limit - len(dots)
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + dots
}

// eventOf makes the Event that tells something of a Node. Its name follows from what it
// says, so that the same is one Event, whoever tells it again.
func eventOf(node string, reason topology.Reason, note string, now time.Time) *eventsv1.Event {
	kind := corev1.EventTypeWarning
	if reason == topology.EventReady {
		kind = corev1.EventTypeNormal
	}
	return &eventsv1.Event{
		TypeMeta:   metav1.TypeMeta{APIVersion: eventsv1.SchemeGroupVersion.String(), Kind: "Event"},
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: eventName(node, reason, note)},
		EventTime:  metav1.NewMicroTime(now), Type: kind, Reason: string(reason), Note: note, Action: "ServePods",
		ReportingController: topology.EventSource, ReportingInstance: cut(node, instanceLimit),
		// By the name: `kubectl describe node` looks for Events of the Node's UID and of
		// its name for one (NodeDescriber of k8s.io/kubectl/pkg/describe), and a Node may
		// be missing or made anew.
		Regarding: corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: node, UID: types.UID(node)},
	}
}

func eventName(node string, reason topology.Reason, note string) string {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s\n%s\n%s", node, reason, note)
	suffix := fmt.Sprintf(".%016x", h.Sum64())
	return strings.TrimRight(node[:min(len(node), nameLimit-len(suffix))], ".-") + suffix
}
