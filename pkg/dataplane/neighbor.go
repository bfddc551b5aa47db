package dataplane

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// portLeft makes Watch drop the neighbors of a port that has left the bridge. Several signals at
// once are one read of the table.
func (k *Kernel) portLeft() {
	select {
	case k.left <- struct{}{}:
	default:
	}
}

// leaves reports whether a notification of the bridge's own family means that a port has left it
// (del_nbp of net/bridge/br_if.c), whether it was deleted or taken out.
func (k *Kernel) leaves(m netlink.Message) bool {
	if m.Header.Type != unix.RTM_DELLINK {
		return false
	}
	_, port, _ := parseLink(m.Data)
	return k.links == nil || k.links.name(port.master) == k.cfg.Bridge
}

// A neighbor is an entry of the neighbor table or of a bridge's forwarding table (struct ndmsg,
// rtnetlink(7)).
type neighbor struct {
	family, flags uint8
	index         int
	state         uint16
	addr          []byte
	mac           string // its bytes
	diverted      bool   // packets go to another UDP port, VNI or link than the VXLAN device's own
}

// learned reports whether the kernel itself learned the entry, and no operator or other program.
func (n neighbor) learned() bool {
	const states, ofElsewhere = unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE, unix.NTF_EXT_LEARNED | unix.NTF_PROXY
	return n.state&states != 0 && n.flags&ofElsewhere == 0
}

// dropNeighbors deletes the neighbors on the bridge whose MAC address is behind none of its ports.
// Otherwise the kernel would send to that MAC address for half a minute or more, although the IP
// address may be the next pod's by now. A running pod whose MAC address the bridge has forgotten,
// because it sent nothing for long, is resolved again.
func (k *Kernel) dropNeighbors() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	link, err := k.handle.LinkByName(k.cfg.Bridge)
	if err != nil {
		return nil // a bridge that is not there has no neighbors
	}
	bridge := link.Attrs().Index
	var known []neighbor
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		all, failure := k.neighbors(family, unix.NDA_IFINDEX, bridge)
		known, err = append(known, all...), errors.Join(err, failure)
	}
	entries, failure := k.neighbors(unix.AF_BRIDGE, unix.NDA_MASTER, bridge)
	if err := errors.Join(err, failure); err != nil {
		return fmt.Errorf("listing neighbors of %s: %w", k.cfg.Bridge, err)
	}
	behind := map[string]bool{}
	for _, e := range entries {
		behind[e.mac] = true
	}
	var gone []request
	for _, n := range known {
		if n.learned() && !behind[n.mac] {
			gone = append(gone, request{kind: unix.RTM_DELNEIGH, data: appendAttribute(neighborMessage(n.family, bridge), unix.NDA_DST, n.addr)})
		}
	}
	for _, err := range k.rtnetlink.acknowledge(gone) {
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("deleting neighbors of %s: %w", k.cfg.Bridge, err)
		}
	}
	return nil
}

// neighbors returns the entries of a family that the kernel filters by an attribute.
func (k *Kernel) neighbors(family uint8, filter uint16, index int) ([]neighbor, error) {
	return RetryDump(func() (all []neighbor, err error) {
		err = k.eachNeighbor(family, filter, index, func(n neighbor) {
			n.addr = bytes.Clone(n.addr)
			all = append(all, n)
		})
		return all, err
	})
}

// eachNeighbor calls f with each of these entries, which are valid during the call. If the kernel
// lacks the family, it returns entries of others, which are left out.
func (k *Kernel) eachNeighbor(family uint8, filter uint16, index int, f func(neighbor)) error {
	ask := appendNumber(neighborMessage(family, 0), filter, index)
	return k.rtnetlink.dump(unix.RTM_GETNEIGH, ask, func(_ uint16, data []byte) {
		if n := parseNeighbor(data); n.family == family && (filter != unix.NDA_IFINDEX || n.index == index) {
			f(n)
		}
	})
}

// neighborMessage returns a struct ndmsg.
func neighborMessage(family uint8, index int) []byte {
	data := make([]byte, unix.SizeofNdMsg, 48) // with an IPv6 and a MAC address
	data[0] = family
	binary.NativeEndian.PutUint32(data[4:], uint32(index))
	return data
}

// parseNeighbor returns an entry whose address is a part of the message.
func parseNeighbor(b []byte) neighbor {
	attributes := b[unix.SizeofNdMsg:]
	diverted := false
	eachAttribute(attributes, func(kind uint16, _ []byte) {
		diverted = diverted || kind == unix.NDA_PORT || kind == unix.NDA_VNI || kind == unix.NDA_IFINDEX
	})
	return neighbor{
		diverted: diverted,
		family:   b[0], index: int(int32(number(b[4:]))), state: binary.NativeEndian.Uint16(b[8:]), flags: b[10],
		addr: attribute(attributes, unix.NDA_DST), mac: string(attribute(attributes, unix.NDA_LLADDR)),
	}
}
