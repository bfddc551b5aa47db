package plan

import (
	"cmp"
	"slices"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Kind is a kind of change.
type Kind string

// The kinds of things that Changes make.
const (
	KindSysctl  Kind = "sysctl"
	KindAddress Kind = "address"
	KindBridge  Kind = "bridge"
	KindDevice  Kind = "device"
	KindRoute   Kind = "route"
	KindTable   Kind = "nftables table"
	KindCNI     Kind = "CNI config"
)

// Key names one thing that a change makes, replaces or removes.
type Key struct {
	Kind Kind
	// Name is a path, a prefix or a name, as operators write it.
	Name string
}

func (k Key) String() string { return string(k.Kind) + " " + k.Name }

// Compare orders Keys.
func (k Key) Compare(o Key) int {
	return cmp.Or(cmp.Compare(k.Kind, o.Kind), cmp.Compare(k.Name, o.Name))
}

func sysctlKey(s Sysctl) Key            { return Key{KindSysctl, s.Path} }
func addressKey(a topology.Address) Key { return Key{KindAddress, a.String()} }
func deviceKey(d topology.Device) Key   { return Key{KindDevice, d.Name} }
func bridgeKey(name string) Key         { return Key{KindBridge, name} }

// routeKey tells our own subnet's route from a peer's to the same subnet.
func routeKey(r topology.Route) Key {
	if r.Metric == topology.MetricOwn {
		return Key{KindRoute, string(topology.Unreachable) + " " + r.Dst.String()}
	}
	return Key{KindRoute, r.Dst.String()}
}

var (
	tableKey = Key{KindTable, topology.Table}
	cniKey   = Key{KindCNI, topology.Conflist}
)

// Without leaves out the changes of all Keys that drop accepts. Where routes go in,
// the table goes with them: a destination is in the sets before its route is there.
// Without the bridge nothing of it is changed.
func (c Changes) Without(drop func(Key) bool) Changes {
	if c.AddBridge != nil && drop(bridgeKey(c.AddBridge.Name)) {
		c = c.WithoutBridge()
	}
	c.Sysctls = without(c.Sysctls, sysctlKey, drop)
	c.SetDevices = without(c.SetDevices, deviceKey, drop)
	c.AddAddresses = without(c.AddAddresses, addressKey, drop)
	c.Add, c.Replace, c.Delete = without(c.Add, routeKey, drop), without(c.Replace, routeKey, drop), without(c.Delete, routeKey, drop)
	c.DeleteAddresses = without(c.DeleteAddresses, addressKey, drop)
	if c.DeleteBridge != "" && drop(bridgeKey(c.DeleteBridge)) {
		c.DeleteBridge = ""
	}
	if c.touchesTable() && drop(tableKey) && len(c.Add)+len(c.Replace) == 0 {
		c.Table, c.Widen, c.Narrow, c.DeleteTable = nil, SetChange{}, SetChange{}, false
	}
	if c.TouchesCNI() && drop(cniKey) {
		c = c.WithoutCNI()
	}
	return c
}

func without[T any](all []T, key func(T) Key, drop func(Key) bool) []T {
	return slices.DeleteFunc(slices.Clone(all), func(x T) bool { return drop(key(x)) })
}

func (c Changes) touchesTable() bool {
	return c.Table != nil || c.DeleteTable || !c.Widen.Empty() || !c.Narrow.Empty()
}

// Repairs returns the Keys of changes that only put back what desired asked for
// before as well: had nobody undone it, there would be nothing to change.
func (c Changes) Repairs(before, desired topology.State) []Key {
	keys := c.bridgeRepairs(before, desired)
	for _, s := range c.Sysctls {
		if before.Sysctls[s.Path] == s.Value {
			keys = append(keys, sysctlKey(s))
		}
	}
	for _, a := range slices.Concat(c.AddAddresses, c.DeleteAddresses) {
		if slices.Contains(before.Addresses, a) == slices.Contains(desired.Addresses, a) {
			keys = append(keys, addressKey(a))
		}
	}
	for _, r := range slices.Concat(c.Add, c.Replace, c.Delete) {
		if sameRoute(before.Routes, desired.Routes, r) {
			keys = append(keys, routeKey(r))
		}
	}
	if c.touchesTable() && sameTables(before.Masquerade, desired.Masquerade) {
		keys = append(keys, tableKey)
	}
	if c.TouchesCNI() && before.CNI.Equal(desired.CNI) {
		keys = append(keys, cniKey)
	}
	return keys
}

// bridgeRepairs is the part of Repairs that is about the bridge and its ports. A port that
// has come since the State before was desired was in the bridge as well.
func (c Changes) bridgeRepairs(before, desired topology.State) []Key {
	if before.Bridge != desired.Bridge {
		return nil
	}
	var keys []Key
	if c.AddBridge != nil {
		keys = append(keys, bridgeKey(c.AddBridge.Name))
	}
	for _, d := range c.SetDevices {
		i, known := slices.BinarySearchFunc(before.Devices, d, topology.Device.Compare)
		if !known || before.Devices[i].Like(d) {
			keys = append(keys, deviceKey(d))
		}
	}
	if c.DeleteBridge != "" {
		keys = append(keys, bridgeKey(c.DeleteBridge))
	}
	return keys
}

// sameRoute tells whether both ask for the same route, or neither for any, of the
// key of r.
func sameRoute(before, desired []topology.Route, r topology.Route) bool {
	i, was := slices.BinarySearchFunc(before, r, topology.Route.Compare)
	j, is := slices.BinarySearchFunc(desired, r, topology.Route.Compare)
	return was == is && (!is || before[i] == desired[j])
}

func sameTables(a, b *topology.Masquerade) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.SameRules(b) && slices.Equal(a.Cluster, b.Cluster) && slices.Equal(a.Nodes, b.Nodes)
}
