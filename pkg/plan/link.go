package plan

import (
	"fmt"
	"slices"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Bridge is the pods' bridge itself. In a deletion it has its name alone.
type Bridge struct{ topology.Device }

func (b Bridge) kind() Kind   { return KindBridge }
func (b Bridge) name() string { return b.Name }

// String returns the bridge's name.
func (b Bridge) String() string { return b.Name }

func (b Bridge) command(op Op) string {
	if op == Delete {
		return "ip link delete " + b.Name
	}
	mtu := ""
	if b.Device.MTU > 0 { // 0: not known yet
		mtu = fmt.Sprintf(" mtu %d", b.Device.MTU)
	}
	return fmt.Sprintf("ip link add %s address %s%s type bridge", b.Name, b.MAC, mtu)
}

func (b Bridge) same(before, desired topology.State) bool { return before.Bridge == desired.Bridge }

// MTU is the bridge's MTU, in bytes.
type MTU struct {
	Dev   string
	Bytes int
}

func (m MTU) kind() Kind                    { return KindDevice }
func (m MTU) name() string                  { return m.Dev }
func (m MTU) command(Op) string             { return "ip link set " + m.String() }
func (m MTU) same(a, b topology.State) bool { return sameDevice(a, b, m.Dev) }

// String returns the MTU in the syntax of ip-link(8).
func (m MTU) String() string { return fmt.Sprintf("dev %s mtu %d", m.Dev, m.Bytes) }

// Device is the bridge or one of its ports in its desired state: up, and in the bridge.
type Device struct{ topology.Device }

func (d Device) kind() Kind                    { return KindDevice }
func (d Device) name() string                  { return d.Name }
func (d Device) command(Op) string             { return "ip link set " + d.Device.String() }
func (d Device) same(a, b topology.State) bool { return sameDevice(a, b, d.Name) }

// sameDevice reports whether both States have a device in the same state. A port that is new counts
// as the same.
func sameDevice(before, desired topology.State, name string) bool {
	find := func(s topology.State) (int, bool) {
		return slices.BinarySearchFunc(s.Devices, topology.Device{Name: name}, topology.Device.Compare)
	}
	i, was := find(before)
	j, is := find(desired)
	return before.Bridge == desired.Bridge && (!was || is && before.Devices[i].Like(desired.Devices[j]))
}

// diffLinks never takes a port out of the bridge. A port in the desired State alone was deleted
// with its pod.
func diffLinks(desired, actual topology.State) Changes {
	var c Changes
	if desired.Bridge == "" && actual.Bridge != "" {
		c = append(c, Change{Delete, Bridge{topology.Device{Name: actual.Bridge}}})
	}
	walk(desired.Devices, actual.Devices, topology.Device.Compare,
		func(d topology.Device) {
			if d.Name == desired.Bridge && actual.Bridge == "" {
				c = append(c, Change{Add, Bridge{d}}, Change{Replace, Device{d}})
			}
		},
		func(topology.Device) {},
		func(want, have topology.Device) {
			if want.MTU != have.MTU {
				c = append(c, Change{Replace, MTU{want.Name, want.MTU}})
			}
			if !want.Like(have) {
				c = append(c, Change{Replace, Device{want}})
			}
		})
	return c
}

// makes returns the device that a Change adds or recreates, or "".
func (c Change) makes() string {
	switch o := c.Object.(type) {
	case Bridge:
		if c.Op == Add {
			return o.Name
		}
	case Tunnel:
		if c.Op == Add || c.Op == Replace && o.Recreates() {
			return o.Name
		}
	}
	return ""
}

// needs reports whether a Change can't be made without a device.
func (c Change) needs(dev string) bool {
	if c.Op == Delete {
		return false
	}
	switch o := c.Object.(type) {
	case Bridge:
		return o.Name == dev
	case Tunnel:
		return o.Name == dev
	case MTU:
		return o.Dev == dev
	case Device:
		return o.Name == dev || o.Master == dev
	case Address:
		return o.Dev == dev
	case Neighbor:
		return o.Dev == dev
	case FDBEntry:
		return o.Dev == dev
	case Route:
		return o.Dev == dev
	case Sysctl:
		return o.of(dev)
	}
	return false
}

// WithoutDevice leaves out the addition of a device, and what can't be done without it.
func (c Changes) WithoutDevice(dev string) Changes {
	return c.Filter(func(x Change) bool { return !x.needs(dev) })
}
