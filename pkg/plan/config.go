package plan

import (
	"fmt"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Config is the node's CNI config. In a deletion it is the existing one.
type Config struct{ *topology.CNI }

func (c Config) kind() Kind   { return KindCNI }
func (c Config) name() string { return topology.Conflist }

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
