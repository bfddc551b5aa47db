// Package problem is the model of what is wrong: a Problem, the registry of Reasons, and how
// Problems are grouped and printed. The agent's report, Events, /readyz, doctor, check and the
// fleet status all use it.
package problem

import (
	"cmp"
	"fmt"
	"net/netip"
)

// Severity is how bad a Problem is.
type Severity string

// The severities.
const (
	Error   Severity = "Error"   // traffic of pods is broken, or will be
	Warning Severity = "Warning" // a risk, or a problem of another node
	Info    Severity = "Info"    // for information; no command fails
	Unknown Severity = "Unknown" // it could not be checked
	None    Severity = ""        // nothing is wrong
)

// Subject is the object that a Problem is about. Without a Node it is this host; without a Subnet
// it is all subnets of the Node.
type Subject struct {
	Node   string       `json:"node,omitempty"`
	Subnet netip.Prefix `json:"subnet,omitzero"`
}

// Node returns the Subject of a whole Node.
func Node(name string) Subject { return Subject{Node: name} }

// Problem is one thing that is wrong.
type Problem struct {
	Severity Severity `json:"severity"`
	Subject  `json:"subject,omitzero"`
	Reason   Reason `json:"reason"`
	// Message describes the problem, Evidence is the output or file that shows it, Remediation
	// describes how to solve it.
	Message     string `json:"message"`
	Evidence    string `json:"evidence,omitempty"`
	Remediation string `json:"remediation,omitempty"`
	// BlocksReady reports that pods of this node are affected, so the node is not ready. Only Blocking
	// sets it.
	BlocksReady bool `json:"blocksReady,omitempty"`
}

// New returns a Problem with the registry's Severity and Remediation of its Reason. If the registry
// leaves open whether it blocks readiness, it does not: see Blocking.
func New(reason Reason, subject Subject, format string, args ...any) Problem {
	return Problem{Subject: subject, Reason: reason, Message: fmt.Sprintf(format, args...)}.Blocking(false).Complete()
}

// Blocking returns a Problem that blocks readiness if the registry says so of its Reason, or leaves
// it open and blocks is true.
func (p Problem) Blocking(blocks bool) Problem {
	switch p.Reason.Blocks() {
	case always:
		blocks = true
	case never:
		blocks = false
	}
	if p.BlocksReady = blocks; blocks && p.Severity != None {
		p.Severity = Error
	}
	return p
}

// Complete fills in the registry's Severity and Remediation where the Problem has none of its own.
// A Problem that blocks readiness is an Error.
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

// Compare orders Problems: first those that block readiness, then by Node, Reason, Message and
// Subnet.
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

// IsEvent reports whether the named node records a Problem that it reports as an Event on its Node:
// one that the registry makes an Event, and that has to be solved there and not at a peer.
func (p Problem) IsEvent(node string) bool {
	return p.Reason.Event() && (p.Reason.Scope() == OfHost || p.BlocksReady || p.Node == node)
}
