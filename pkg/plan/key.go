package plan

import (
	"cmp"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Kind is a kind of Object, in an operator's words.
type Kind string

// The kinds of Objects.
const (
	KindSysctl   Kind = "sysctl"
	KindAddress  Kind = "address"
	KindBridge   Kind = "bridge"
	KindDevice   Kind = "device"
	KindTunnel   Kind = "tunnel"
	KindNeighbor Kind = "neighbor"
	KindFDB      Kind = "FDB entry"
	KindRoute    Kind = "route"
	KindTable    Kind = "nftables table"
	KindCNI      Kind = "CNI config"
)

// Label is the kind as a single word, for metrics and logs. The bridge is a device like its ports.
func (k Kind) Label() string {
	switch k {
	case KindTable:
		return "table"
	case KindCNI:
		return "cni"
	case KindFDB:
		return "fdb"
	case KindBridge:
		return string(KindDevice)
	}
	return string(k)
}

// Key identifies an Object on this host.
type Key struct {
	Kind Kind `json:"kind"`
	// Name is a path, a prefix or a name, in an operator's syntax.
	Name string `json:"name"`
}

func (k Key) String() string { return string(k.Kind) + " " + k.Name }

// Compare orders Keys.
func (k Key) Compare(o Key) int {
	return cmp.Or(cmp.Compare(k.Kind, o.Kind), cmp.Compare(k.Name, o.Name))
}

var tableKey = Key{KindTable, topology.Table}
