// Package problem is the model of what is wrong: a Problem, the registry of Reasons, and how Problems are grouped and
// printed. The agent's report, Events, /readyz, doctor, check and the fleet status all use it.
package problem

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// Severity is how bad a Problem is.
type Severity string

// The severities.
const (
	Error   Severity = "Error"   // traffic of pods does not flow as it should, or will not
	Warning Severity = "Warning" // a risk, or a fault of another node
	Info    Severity = "Info"    // worth knowing; it fails nothing
	Unknown Severity = "Unknown" // it could not be checked
	None    Severity = ""        // nothing is wrong
)

// Worst returns the highest Severity of Problems; None if there are none.
func Worst(problems []Problem) Severity {
	worst := None
	for _, s := range []Severity{Info, Unknown, Warning, Error} {
		if slices.ContainsFunc(problems, func(p Problem) bool { return p.Severity == s }) {
			worst = s
		}
	}
	return worst
}

// Subject is what a Problem is about. Without a Node it is this host, without a Subnet all of the Node's.
type Subject struct {
	Node   string       `json:"node,omitempty"`
	Subnet netip.Prefix `json:"subnet,omitzero"`
}

// Node returns the Subject that is a Node as a whole.
func Node(name string) Subject { return Subject{Node: name} }

// Problem is one thing that is wrong.
type Problem struct {
	Severity Severity `json:"severity"`
	Subject  `json:"subject,omitzero"`
	Reason   Reason `json:"reason"`
	// Message is what is wrong, Evidence the output or file that shows it, Remediation what to do.
	Message     string `json:"message"`
	Evidence    string `json:"evidence,omitempty"`
	Remediation string `json:"remediation,omitempty"`
	// BlocksReady reports that pods of this node suffer from it, so the node is not ready.
	BlocksReady bool `json:"blocksReady,omitempty"`
}

// New returns a Problem with the registry's Severity and Remediation of its Reason.
func New(reason Reason, subject Subject, format string, args ...any) Problem {
	return Problem{Subject: subject, Reason: reason, Message: fmt.Sprintf(format, args...)}.Complete()
}

// Complete fills in the registry's Severity and Remediation where the Problem has none of its own. A Problem that blocks
// readiness is an Error.
func (p Problem) Complete() Problem {
	severity := p.Reason.entry().severity
	if p.BlocksReady {
		severity = Error
	}
	p.Severity = cmp.Or(p.Severity, severity, Warning)
	p.Remediation = cmp.Or(p.Remediation, p.Reason.Remediation())
	return p
}

// Complete returns Problems with Severity and Remediation; never nil.
func Complete(problems []Problem) []Problem {
	list := make([]Problem, len(problems))
	for i, p := range problems {
		list[i] = p.Complete()
	}
	return list
}

func (p Problem) String() string {
	if p.Node == "" {
		return fmt.Sprintf("%s: %s", p.Reason, p.Message)
	}
	return fmt.Sprintf("node %s: %s: %s", p.Node, p.Reason, p.Message)
}

// Compare orders Problems that block readiness first, then by Node, Reason, Message and Subnet.
func (p Problem) Compare(q Problem) int {
	if p.BlocksReady != q.BlocksReady {
		if p.BlocksReady {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(p.Node, q.Node), cmp.Compare(p.Reason, q.Reason), cmp.Compare(p.Message, q.Message),
		p.Subnet.Addr().Compare(q.Subnet.Addr()), cmp.Compare(p.Subnet.Bits(), q.Subnet.Bits()))
}

// Concerns reports whether a Problem has to be solved on the node that has this name, and not at a peer.
func (p Problem) Concerns(node string) bool {
	switch p.Reason.Scope() {
	case OfHost:
		return true
	case OfNode:
		return p.BlocksReady || p.Node == node
	}
	return false
}
