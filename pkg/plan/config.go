package plan

import (
	"fmt"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Config is the node's CNI config. To be deleted, it is that which is there.
type Config struct{ *topology.CNI }

// Kind is KindCNI.
func (c Config) Kind() Kind { return KindCNI }

// Name is that of its file.
func (c Config) Name() string { return topology.Conflist }

// String gives its file's name, and what it says of pods.
func (c Config) String() string {
	if c.CNI == nil {
		return topology.Conflist
	}
	return fmt.Sprintf("%s: subnets %v, MTU %d", topology.Conflist, c.Subnets, c.CNI.MTU)
}

func (c Config) command(op Op) string {
	if op == Delete {
		return "rm " + topology.Conflist
	}
	return "cat >" + topology.Conflist
}

func (c Config) same(before, desired topology.State) bool { return before.CNI.Equal(desired.CNI) }

func diffConfig(desired, actual topology.State) Changes {
	switch {
	case desired.CNI.Equal(actual.CNI):
		return nil
	case desired.CNI == nil:
		return Changes{{Delete, Config{actual.CNI}}}
	case actual.CNI == nil:
		return Changes{{Add, Config{desired.CNI}}}
	}
	return Changes{{Replace, Config{desired.CNI}}}
}
