// Package inspect reads from the kernel what is not plainroute's own: firewall chains, neighbors,
// bridge ports, policy rules and the network namespaces of pods. It changes nothing.
package inspect

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/dataplane"
)

// An Inspector reads one network namespace. It caches nothing.
type Inspector struct {
	conn   *dataplane.Conn
	handle *rtnl.Handle
}

// New returns an Inspector of the network namespace of the thread that calls it.
func New() (*Inspector, error) {
	conn, err := dataplane.OpenConn()
	if err != nil {
		return nil, err
	}
	handle, err := rtnl.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening netlink: %w", err), conn.Close())
	}
	return &Inspector{conn, handle}, nil
}

// Close closes the sockets.
func (i *Inspector) Close() error {
	i.handle.Close()
	return i.conn.Close()
}

// Device is a network device of any kind. Its MAC address is empty if it has none.
type Device struct{ Name, Kind, Master, MAC string }

// Devices lists all devices.
func (i *Inspector) Devices() ([]Device, error) {
	links, names, err := i.links()
	if err != nil {
		return nil, err
	}
	var devices []Device
	for _, l := range links {
		devices = append(devices, Device{l.Attrs().Name, l.Type(), names[l.Attrs().MasterIndex], l.Attrs().HardwareAddr.String()})
	}
	return devices, nil
}

// links returns all devices, and their names by index.
func (i *Inspector) links() ([]rtnl.Link, map[int]string, error) {
	links, err := dataplane.RetryDump(i.handle.LinkList)
	if err != nil {
		return nil, nil, fmt.Errorf("listing links: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	return links, names, nil
}

// A Port is a device in a bridge that is up and has a carrier.
type Port struct {
	Name     string
	State    PortState // set by the spanning tree protocol or by bridge(8)
	Isolated bool      // it forwards nothing to other isolated ports
	// BlockedBy is the option of bridge(8) that blocks ARP (locked on, bcast_flood off) or neighbor
	// discovery (mcast_flood off), "" if there is none.
	BlockedBy string
	NoHairpin bool // it sends nothing back where that came from
	MTU       int  // in bytes
}

// PortState is BR_STATE_* of linux/if_bridge.h.
type PortState uint8

// The states in which a port forwards, or will without further action.
const (
	PortListening  PortState = 1
	PortLearning   PortState = 2
	PortForwarding PortState = 3
)

// String returns the state as bridge(8) prints it.
func (s PortState) String() string {
	if names := []string{"disabled", "listening", "learning", "forwarding", "blocking"}; int(s) < len(names) {
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
	request := make([]byte, unix.SizeofIfInfomsg) // struct ifinfomsg
	request[0] = unix.AF_BRIDGE
	ports, err := dataplane.RetryDump(func() (ports []Port, err error) {
		err = i.conn.Get(unix.RTM_GETLINK, unix.NLM_F_DUMP, request, func(_ uint16, data []byte) {
			running := binary.NativeEndian.Uint32(data[8:])&unix.IFF_LOWER_UP != 0 // which needs IFF_UP
			if port, master := parsePort(data[unix.SizeofIfInfomsg:]); running && master == link.Attrs().Index {
				ports = append(ports, port)
			}
		})
		return ports, err
	})
	if err != nil {
		return nil, fmt.Errorf("listing the ports of %s: %w", bridge, err)
	}
	return ports, nil
}

// parsePort returns a port, and the index of its bridge.
func parsePort(b []byte) (port Port, master int) {
	eachAttribute(b, func(attrs *netlink.AttributeDecoder) {
		switch attrs.Type() {
		case unix.IFLA_IFNAME:
			port.Name = attrs.String()
		case unix.IFLA_MASTER:
			master = int(attrs.Uint32())
		case unix.IFLA_MTU:
			port.MTU = int(attrs.Uint32())
		case unix.IFLA_PROTINFO:
			eachAttribute(attrs.Bytes(), port.setOption)
		}
	})
	return port, master
}

// eachAttribute calls f at each netlink attribute.
func eachAttribute(b []byte, f func(*netlink.AttributeDecoder)) {
	attrs, err := netlink.NewAttributeDecoder(b)
	for err == nil && attrs.Next() {
		f(attrs)
	}
}

func (p *Port) setOption(info *netlink.AttributeDecoder) {
	blocked := func(is bool, option string) {
		if is {
			p.BlockedBy = option
		}
	}
	switch info.Type() {
	case portState:
		p.State = PortState(info.Uint8())
	case portHairpin:
		p.NoHairpin = info.Uint8() == 0
	case portMulticast:
		blocked(info.Uint8() == 0, "mcast_flood off")
	case portBroadcast:
		blocked(info.Uint8() == 0, "bcast_flood off")
	case portIsolated:
		p.Isolated = info.Uint8() != 0
	case portLocked:
		blocked(info.Uint8() != 0, "locked on")
	}
}
