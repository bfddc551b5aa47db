// Package talk is the protocol between the pods of the e2e tests, and between pods and tests. A request
// asks for a pod's identity and the client's address as the pod sees it, has the pod send requests to an
// address, or has it keep a flow going and count the lost packets.
package talk

import "net/netip"

// Identity is the answer of a workload, over HTTP, TCP and UDP alike.
type Identity struct {
	// Pod and Node are names; on a host outside the cluster, Pod is the host's and Node is empty.
	Pod  string `json:"pod"`
	Node string `json:"node,omitempty"`
	// Seen is the client's address as the workload sees it: with NAT on the way it isn't the client's own.
	Seen netip.Addr `json:"seen"`
}

// Question asks a workload to reach something. Target is an address and a port, for DNS a name.
type Question struct {
	// Network is one of HTTP, TCP, UDP and DNS.
	Network string `json:"network"`
	Target  string `json:"target"`
	// Host is the Host header, for HTTP.
	Host string `json:"host,omitempty"`
	// Count is how often to ask, one after another, each time over a connection of its own; 0 means once.
	Count int `json:"count,omitempty"`
}

// The networks of a Question.
const (
	HTTP = "http"
	TCP  = "tcp"
	UDP  = "udp"
	DNS  = "dns"
)

// Answer is the result of a Question.
type Answer struct {
	Question Question `json:"question"`
	// From are the workloads that answered, one each time.
	From []Identity `json:"from,omitempty"`
	// Addresses are those of a name.
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// Error is why the last time failed.
	Error string `json:"error,omitempty"`
}

// TCPPort is where a workload that serves HTTP and UDP on port answers over bare TCP.
func TCPPort(port uint16) uint16 { return port + 1 }
