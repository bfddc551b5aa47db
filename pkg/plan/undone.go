package plan

import (
	"slices"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Minus returns what is left of the Changes once some of them are done.
func (c Changes) Minus(done Changes) Changes {
	if done.AddBridge != nil {
		c.AddBridge = nil
	}
	c.Sysctls, c.SetDevices = minus(c.Sysctls, done.Sysctls), minus(c.SetDevices, done.SetDevices)
	c.AddAddresses, c.DeleteAddresses = minus(c.AddAddresses, done.AddAddresses), minus(c.DeleteAddresses, done.DeleteAddresses)
	c.Add, c.Replace, c.Delete = minus(c.Add, done.Add), minus(c.Replace, done.Replace), minus(c.Delete, done.Delete)
	if done.DeleteBridge != "" {
		c.DeleteBridge = ""
	}
	if done.touchesTable() {
		c.Table, c.Widen, c.Narrow, c.DeleteTable = nil, SetChange{}, SetChange{}, false
	}
	if done.TouchesCNI() {
		c = c.WithoutCNI()
	}
	return c
}

// minus is quick where nothing or all is done, as is the rule.
func minus[T comparable](all, done []T) []T {
	switch len(done) {
	case 0:
		return all
	case len(all):
		return nil
	}
	gone := make(map[T]bool, len(done))
	for _, x := range done {
		gone[x] = true
	}
	return slices.DeleteFunc(slices.Clone(all), func(x T) bool { return gone[x] })
}

// Keys names everything that the Changes make, replace or remove.
func (c Changes) Keys() []Key {
	var keys []Key
	if c.AddBridge != nil {
		keys = append(keys, bridgeKey(c.AddBridge.Name))
	}
	for _, s := range c.Sysctls {
		keys = append(keys, sysctlKey(s))
	}
	for _, d := range c.SetDevices {
		keys = append(keys, deviceKey(d))
	}
	for _, addresses := range [][]topology.Address{c.AddAddresses, c.DeleteAddresses} {
		for _, a := range addresses {
			keys = append(keys, addressKey(a))
		}
	}
	for _, routes := range [][]topology.Route{c.Add, c.Replace, c.Delete} {
		for _, r := range routes {
			keys = append(keys, routeKey(r))
		}
	}
	if c.DeleteBridge != "" {
		keys = append(keys, bridgeKey(c.DeleteBridge))
	}
	if c.touchesTable() {
		keys = append(keys, tableKey)
	}
	if c.TouchesCNI() {
		keys = append(keys, cniKey)
	}
	return keys
}

// A Tally is how many Changes of each sort there are. The table counts as one,
// whatever of it changes. The bridge and its ports are Devices.
type Tally struct {
	Sysctls, Devices, Addresses, Added, Replaced, Deleted, Tables, Configs int
}

// Tally counts the Changes.
func (c Changes) Tally() Tally {
	t := Tally{
		Sysctls: len(c.Sysctls), Devices: len(c.SetDevices), Addresses: len(c.AddAddresses) + len(c.DeleteAddresses),
		Added: len(c.Add), Replaced: len(c.Replace), Deleted: len(c.Delete),
	}
	if c.AddBridge != nil {
		t.Devices++
	}
	if c.touchesTable() {
		t.Tables = 1
	}
	if c.TouchesCNI() {
		t.Configs = 1
	}
	return t
}

// Routes is how many routes the Changes are about.
func (t Tally) Routes() int { return t.Added + t.Replaced + t.Deleted }

// Sum is how many Changes there are.
func (t Tally) Sum() int {
	return t.Sysctls + t.Devices + t.Addresses + t.Routes() + t.Tables + t.Configs
}
