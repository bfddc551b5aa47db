// Package connectivity tests a pod network from within: pods on every node send packets to
// each other, to nodes, Services and names, and say what arrived.
package connectivity

import (
	"fmt"
	"net/netip"
	"time"
)

// Kind is what a probe sends.
type Kind string

// The kinds of probes.
const (
	TCP   Kind = "tcp"   // a request; the answer says as whom it was seen
	UDP   Kind = "udp"   // a small datagram, echoed
	MTU   Kind = "mtu"   // a datagram as large as the pod's MTU, which nobody may fragment, echoed
	Large Kind = "large" // a datagram of three times the MTU, in fragments, echoed
	Bulk  Kind = "bulk"  // a quarter of a mebibyte by TCP
	Reach Kind = "reach" // a connection: that it is refused shows as well that somebody is there
	Name  Kind = "name"  // a name that the cluster's DNS knows
)

// Probe is one thing to try.
type Probe struct {
	Kind Kind `json:"kind"`
	// To is ADDRESS:PORT, or a name.
	To string `json:"to"`
}

// Outcome is what came of a probe.
type Outcome struct {
	// Error is why it failed; empty: it did not.
	Error string `json:"error,omitempty"`
	// Self is the address that the pod sent from, and Seen the one that the other end saw;
	// both are set by kind TCP alone.
	Self netip.Addr `json:"self,omitzero"`
	Seen netip.Addr `json:"seen,omitzero"`
	// Took is how long it took.
	Took time.Duration `json:"tookNanoseconds"`
}

// Translated tells that somebody on the way changed the source address.
func (o Outcome) Translated() bool { return o.Seen.IsValid() && o.Seen != o.Self }

// Fault says what is wrong, or nothing.
func (o Outcome) Fault(mayTranslate bool) string {
	switch {
	case o.Error != "":
		return o.Error
	case o.Translated() && !mayTranslate:
		return fmt.Sprintf("seen as %s instead of %s: somebody translates addresses on the way", o.Seen, o.Self)
	}
	return ""
}

// Ports of the responder in each pod. Datagrams to FragmentPort are answered in
// fragments, those to Port in one piece or not at all.
const (
	Port         = 9473
	FragmentPort = 9474
)

// sizes of what is sent.
const (
	smallSize = 64
	bulkSize  = 256 << 10
)

const (
	// atOnce is how many probes a pod makes at a time.
	atOnce = 128
	// tries and patience bound a probe: a lost packet is no fault, three are. They are a
	// second apart also where the answer is a refusal: what was just made, such as a
	// Service's rules, may not be everywhere yet.
	tries    = 3
	patience = time.Second
)

// longest is how long a pod takes for so many probes if none arrives.
func longest(probes int) time.Duration {
	return time.Duration((probes+atOnce-1)/atOnce) * tries * patience
}

// header4 and header6 are what IP and UDP put before a datagram.
const (
	header4 = 20 + 8
	header6 = 40 + 8
)

// payload is how many bytes a datagram carries that fills so many times the MTU.
func payload(mtu, times int, is4 bool) int {
	if is4 {
		return mtu*times - header4
	}
	return mtu*times - header6
}
