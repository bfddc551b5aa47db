package dataplane

import (
	"encoding/binary"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A Port is a device in a bridge that is up and has a carrier.
type Port struct {
	Name string
	// State is what the spanning tree protocol or bridge(8) gave it.
	State PortState
	// Isolated reports whether it forwards nothing to other isolated ports.
	Isolated bool
	// Deaf is the option of bridge(8) by which nobody finds what is behind it, "" if there is none: locked
	// on, bcast_flood off (ARP) or mcast_flood off (neighbor discovery).
	Deaf string
	// NoHairpin reports whether it sends nothing back to where that came from.
	NoHairpin bool
}

// PortState is BR_STATE_* of linux/if_bridge.h.
type PortState uint8

// The states in which a port forwards, and in which it will by itself.
const (
	PortListening  PortState = 1
	PortLearning   PortState = 2
	PortForwarding PortState = 3
)

// String gives the state as bridge(8) shows it.
func (s PortState) String() string {
	names := []string{"disabled", "listening", "learning", "forwarding", "blocking"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Attributes of IFLA_PROTINFO for bridges (linux/if_link.h).
const (
	portState     = 1
	portHairpin   = 4
	portMulticast = 27
	portBroadcast = 30
	portIsolated  = 33
	portLocked    = 39
)

// Ports returns the ports of a bridge that are up and have a carrier.
func (i *Inspector) Ports(bridge string) ([]Port, error) {
	link, err := i.handle.LinkByName(bridge)
	if err != nil {
		return nil, fmt.Errorf("looking for %s: %w", bridge, err)
	}
	var ports []Port
	ask := make([]byte, unix.SizeofIfInfomsg) // struct ifinfomsg
	ask[0] = unix.AF_BRIDGE
	_, err = i.rtnetlink.read(request{kind: unix.RTM_GETLINK, flags: unix.NLM_F_DUMP, data: ask}, func(_ uint16, data []byte) {
		_, id, _ := parseLink(data)
		running := binary.NativeEndian.Uint32(data[8:])&unix.IFF_LOWER_UP != 0 // which needs IFF_UP
		if id.master == link.Attrs().Index && running {
			port := Port{Name: id.name}
			port.parse(data[unix.SizeofIfInfomsg:])
			ports = append(ports, port)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("listing the ports of %s: %w", bridge, err)
	}
	return ports, nil
}

func (p *Port) parse(b []byte) {
	attrs, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return
	}
	for attrs.Next() {
		if attrs.Type() == unix.IFLA_PROTINFO {
			attrs.Nested(func(info *netlink.AttributeDecoder) error {
				for info.Next() {
					p.option(info)
				}
				return nil
			})
		}
	}
}

func (p *Port) option(info *netlink.AttributeDecoder) {
	deaf := func(is bool, option string) {
		if is {
			p.Deaf = option
		}
	}
	switch info.Type() {
	case portState:
		p.State = PortState(info.Uint8())
	case portHairpin:
		p.NoHairpin = info.Uint8() == 0
	case portMulticast:
		deaf(info.Uint8() == 0, "mcast_flood off")
	case portBroadcast:
		deaf(info.Uint8() == 0, "bcast_flood off")
	case portIsolated:
		p.Isolated = info.Uint8() != 0
	case portLocked:
		deaf(info.Uint8() != 0, "locked on")
	}
}
