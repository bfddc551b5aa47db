// Package connectivity tests a pod network from inside: pods on every node send packets to each
// other, to nodes, Services and names, and report which arrived.
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
	TCP   Kind = "tcp"   // a request; the response has the source address
	UDP   Kind = "udp"   // a small datagram, echoed
	MTU   Kind = "mtu"   // a datagram as large as the pod's MTU, which must not be fragmented, echoed
	Large Kind = "large" // a datagram of three times the MTU, in fragments, echoed
	Bulk  Kind = "bulk"  // a quarter of a mebibyte by TCP
	Reach Kind = "reach" // a connection; a refusal shows reachability as well
	Name  Kind = "name"  // a name of the cluster's DNS
)

// Probe is one attempt to reach a target.
type Probe struct {
	Kind Kind   `json:"kind"`
	To   string `json:"to"` // ADDRESS:PORT, or a name
}

// Outcome is the result of a probe.
type Outcome struct {
	Error string `json:"error,omitempty"` // why it failed; empty if it did not
	// Self is the address that the pod sent from, Seen the one that the other end received; only
	// kind TCP sets them.
	Self netip.Addr    `json:"self,omitzero"`
	Seen netip.Addr    `json:"seen,omitzero"`
	Took time.Duration `json:"tookNanoseconds"`
}

// Translated reports whether the source address was changed on the way.
func (o Outcome) Translated() bool { return o.Seen.IsValid() && o.Seen != o.Self }

// Problem returns what is wrong, or "".
func (o Outcome) Problem(mayTranslate bool) string {
	switch {
	case o.Error != "":
		return o.Error
	case o.Translated() && !mayTranslate:
		return fmt.Sprintf("seen as %s instead of %s: the source address is translated on the way", o.Seen, o.Self)
	}
	return ""
}

// Ports of the responder in each pod. Datagrams to FragmentPort are answered in fragments, those to
// Port only in one piece.
const (
	Port         = 9473
	FragmentPort = 9474
)

const (
	smallSize = 64        // bytes of payload
	bulkSize  = 256 << 10 // bytes of payload
	maxProbes = 128       // of a pod at a time
	// attempts and probeTimeout bound a probe, because a single packet may get lost. A refusal is
	// repeated as well, because a Service's rules may not be everywhere yet.
	attempts     = 3
	probeTimeout = time.Second
)

// maxDuration is how long a pod takes for so many probes if none arrives.
func maxDuration(probes int) time.Duration {
	return time.Duration((probes+maxProbes-1)/maxProbes) * attempts * probeTimeout
}

// header4 and header6 are the sizes of the IP and UDP headers of a datagram.
const (
	header4 = 20 + 8
	header6 = 40 + 8
)

// payload returns the number of bytes in a datagram that fills a multiple of the MTU.
func payload(mtu, times int, is4 bool) int {
	if is4 {
		return mtu*times - header4
	}
	return mtu*times - header6
}
