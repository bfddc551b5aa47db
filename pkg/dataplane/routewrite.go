package dataplane

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// An operation on routes has all of our key: an add fails if the key is taken, a change fails if it
// is not, a deletion has gateway, device and protocol as well. So none hits a foreign route of
// another key. Foreign routes with our key are left out beforehand. One that is added between the
// read and a change is hit, because a change can't name what it replaces: in IPv4 the first of the
// key, in IPv6 all next hops. That takes another program with our metric within less than a
// millisecond, and its notification makes the next pass read the routes.
type operation struct {
	name        string
	kind, flags uint16
	scope       byte
	done        unix.Errno // the error that means that it is done already, 0: none
}

var operations = map[plan.Op]operation{
	plan.Add:     {"adding", unix.RTM_NEWROUTE, unix.NLM_F_CREATE | unix.NLM_F_EXCL, unix.RT_SCOPE_UNIVERSE, 0},
	plan.Replace: {"changing", unix.RTM_NEWROUTE, unix.NLM_F_REPLACE, unix.RT_SCOPE_UNIVERSE, 0},
	plan.Delete:  {"deleting", unix.RTM_DELROUTE, 0, unix.RT_SCOPE_NOWHERE, unix.ESRCH},
}

// perSend is how many routes are sent at once: their answers fit into a socket's buffer of the
// usual size, and larger batches are hardly faster.
const perSend = 128

// worthKeeping is the number of changed routes above which reading the table again is cheaper than
// updating what is kept, one insertion at a time.
const worthKeeping = 256

// applyRoutes applies an operation to each route, and updates what is kept.
func (k *Kernel) applyRoutes(op plan.Op, routes []plan.Route) error {
	done := k.remember
	switch {
	case len(routes) > worthKeeping:
		done = func(topology.Route) {}
		defer func() { k.fresh.ours, k.bulk = false, len(routes) }()
	case op == plan.Delete:
		done = k.drop
	}
	how := operations[op]
	var errs []error
	for batch := range slices.Chunk(routes, perSend) {
		for i, err := range k.send(how, batch) {
			if err != nil {
				errs = append(errs, &RouteError{how.name, batch[i].Route, err})
				continue
			}
			done(batch[i].Route)
		}
	}
	return errors.Join(errs...)
}

var errNoDevice = errors.New("no such device any more")

// send returns the kernel's answers to each of the routes.
func (k *Kernel) send(op operation, routes []plan.Route) []error {
	answers := make([]error, len(routes))
	requests, sent := make([]request, 0, len(routes)), make([]int, 0, len(routes)) // sent: which route a request is about
	content := make([]byte, 0, len(routes)*routeSize)                              // of all requests
	for i, r := range routes {
		index, ok := k.links.byName[r.Dev]
		if r.Dev != "" && !ok {
			answers[i] = errNoDevice
			continue
		}
		begin := len(content)
		content = appendRoute(content, r, index, op.scope)
		requests = append(requests, request{op.kind, op.flags, content[begin:]})
		sent = append(sent, i)
	}
	for i, err := range k.rtnetlink.acknowledge(requests) {
		if op.done == 0 || !errors.Is(err, op.done) {
			answers[sent[i]] = err
		}
	}
	return answers
}

// routeSize is the size of an encoded route of IPv6; those of IPv4 are smaller.
const routeSize = 96

// appendRoute appends struct rtmsg and its attributes (rtnetlink(7)).
func appendRoute(b []byte, r plan.Route, index int, scope byte) []byte {
	begin := len(b)
	family := byte(unix.AF_INET)
	if r.Dst.Addr().Is6() {
		family = unix.AF_INET6
	}
	kind := byte(unix.RTN_UNICAST)
	if r.Type == topology.Unreachable {
		kind = unix.RTN_UNREACHABLE
	}
	flags := uint32(0)
	if r.OnLink {
		flags = unix.RTNH_F_ONLINK
	}
	b = append(b, family, byte(r.Dst.Bits()), 0, 0, 0, r.Protocol, scope, kind)
	b = binary.NativeEndian.AppendUint32(b, flags)
	b = putTable(b, begin+4, tableNumber(r.Table))
	b = appendAddr(b, unix.RTA_DST, r.Dst.Addr())
	b = appendNumber(b, unix.RTA_PRIORITY, int(r.Metric))
	switch {
	case r.Via.Is6() && r.Dst.Addr().Is4():
		via := append(binary.NativeEndian.AppendUint16(nil, unix.AF_INET6), r.Via.AsSlice()...)
		b = append(appendAttribute(b, unix.RTA_VIA, via), 0, 0) // RTA_ALIGN
	case r.Via.IsValid():
		b = appendAddr(b, unix.RTA_GATEWAY, r.Via)
	}
	if r.Src.IsValid() {
		b = appendAddr(b, unix.RTA_PREFSRC, r.Src)
	}
	if index != 0 {
		b = appendNumber(b, unix.RTA_OIF, index)
	}
	return b
}

// appendAttribute appends struct rtattr and its value, whose lengths are multiples of four here.
func appendAttribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	return append(b, value...)
}

// appendAddr allocates no memory for the address, of which there are thousands.
func appendAddr(b []byte, kind uint16, a netip.Addr) []byte {
	if a.Is4() {
		value := a.As4()
		return appendAttribute(b, kind, value[:])
	}
	value := a.As16()
	return appendAttribute(b, kind, value[:])
}

func appendNumber(b []byte, kind uint16, value int) []byte {
	var number [4]byte
	binary.NativeEndian.PutUint32(number[:], uint32(value))
	return appendAttribute(b, kind, number[:])
}

// remember and drop update what is kept after a change.
func (k *Kernel) remember(r topology.Route) {
	i, found := slices.BinarySearchFunc(k.routes.ours, &r, topology.CompareRoutes)
	if found {
		k.routes.ours[i] = &r
		return
	}
	k.routes.ours = slices.Insert(k.routes.ours, i, &r)
}

func (k *Kernel) drop(r topology.Route) {
	if i, found := slices.BinarySearchFunc(k.routes.ours, &r, topology.CompareRoutes); found {
		k.routes.ours = slices.Delete(k.routes.ours, i, i+1)
	}
}
