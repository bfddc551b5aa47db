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
}

const (
	learned     = unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE
	ofElsewhere = unix.NTF_EXT_LEARNED | unix.NTF_PROXY
)

// learnedOn reports whether the kernel itself learned the entry on a device. If the kernel lacks a
// family, a request for it returns entries of others.
func (n neighbor) learnedOn(device int, family uint8) bool {
	return n.family == family && n.index == device && n.state&learned != 0 && n.flags&ofElsewhere == 0
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
		err = errors.Join(err, k.neighbors(family, unix.NDA_IFINDEX, bridge, func(n neighbor) {
			if n.learnedOn(bridge, family) {
				known = append(known, n)
			}
		}))
	}
	behind := map[string]bool{}
	err = errors.Join(err, k.neighbors(unix.AF_BRIDGE, unix.NDA_MASTER, bridge, func(n neighbor) { behind[n.mac] = true }))
	if err != nil {
		return fmt.Errorf("listing neighbors of %s: %w", k.cfg.Bridge, err)
	}
	var gone []request
	for _, n := range known {
		if !behind[n.mac] {
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

// neighbors calls f with the entries of a family that the kernel filters by an attribute.
func (k *Kernel) neighbors(family uint8, filter uint16, index int, f func(neighbor)) error {
	data := appendNumber(neighborMessage(family, 0), filter, index)
	_, err := k.rtnetlink.read(request{kind: unix.RTM_GETNEIGH, flags: unix.NLM_F_DUMP, data: data}, func(_ uint16, data []byte) {
		f(parseNeighbor(data))
	})
	return err
}

// neighborMessage returns a struct ndmsg.
func neighborMessage(family uint8, index int) []byte {
	data := make([]byte, unix.SizeofNdMsg)
	data[0] = family
	binary.NativeEndian.PutUint32(data[4:], uint32(index))
	return data
}

func parseNeighbor(b []byte) neighbor {
	attributes := b[unix.SizeofNdMsg:]
	return neighbor{
		family: b[0], index: int(int32(number(b[4:]))), state: binary.NativeEndian.Uint16(b[8:]), flags: b[10],
		addr: bytes.Clone(attribute(attributes, unix.NDA_DST)), mac: string(attribute(attributes, unix.NDA_LLADDR)),
	}
}
