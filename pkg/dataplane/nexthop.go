package dataplane

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// An object is a nexthop object (ip-nexthop(8)), to which routes refer by its id: a single next
// hop, or a group of those.
type object struct {
	hop
	members []uint32
}

// readObjects returns nexthop objects by their ids. With net.ipv4.nexthop_compat_mode=0 a dump of
// routes has neither gateways nor devices for routes that refer to one.
func (k *Kernel) readObjects() (map[uint32]object, error) {
	objects, err := RetryDump(func() (map[uint32]object, error) {
		objects := map[uint32]object{}
		err := k.rtnetlink.dump(unix.RTM_GETNEXTHOP, make([]byte, unix.SizeofNhmsg), func(_ uint16, data []byte) {
			id, o := parseObject(data)
			objects[id] = o
		})
		return objects, err
	})
	if err != nil && !absent(err) {
		return nil, fmt.Errorf("listing next hops: %w", err)
	}
	return objects, nil
}

// parseObject parses struct nhmsg and its attributes (linux/nexthop.h); the id of a broken message
// is 0.
func parseObject(b []byte) (id uint32, o object) {
	if len(b) < unix.SizeofNhmsg {
		return 0, object{}
	}
	o.dead = binary.NativeEndian.Uint32(b[4:])&unix.RTNH_F_DEAD != 0
	eachAttribute(b[unix.SizeofNhmsg:], func(kind uint16, value []byte) {
		switch kind {
		case unix.NHA_ID:
			id = number(value)
		case unix.NHA_GROUP: // struct nexthop_grp: an id, and a weight
			for ; len(value) >= 8; value = value[8:] {
				o.members = append(o.members, number(value))
			}
		case unix.NHA_OIF:
			o.hop.attribute(unix.RTA_OIF, value)
		case unix.NHA_GATEWAY:
			o.hop.attribute(unix.RTA_GATEWAY, value)
		case unix.NHA_ENCAP:
			o.encap = true
		}
	})
	return id, o
}

// resolve fills in the next hops of a route that has only the id of an object. It returns false if
// the object is unknown.
func (m *message) resolve(objects map[uint32]object) bool {
	if m.object == 0 || m.oif != 0 || m.shared() || m.kind != unix.RTN_UNICAST {
		return true
	}
	o, known := objects[m.object]
	if !known {
		return false
	}
	if len(o.members) == 0 {
		m.hop = o.hop
	}
	for i, member := range o.members {
		m.add(objects[member].hop, i == 0)
	}
	return true
}
