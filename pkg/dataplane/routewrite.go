package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// An operation on routes. Each names all of our key: an add fails if the key is
// taken, a change fails if it is not, a deletion names gateway, device and protocol
// as well. So none hits a foreign route of another key. What shares ours is left out
// by who looked before; if it came between the look and a change, it is hit: a change
// can't name what it replaces. In IPv4 it takes the first of the key, whosever that
// is, in IPv6 all next hops. That takes a rival with our metric and a moment of less
// than a millisecond, and the notification of it makes the next pass look.
type operation struct {
	name  string
	kind  netlink.HeaderType
	flags netlink.HeaderFlags
	scope byte
	done  unix.Errno // says that it is done already; 0: nothing does
}

var (
	adding   = operation{"adding", unix.RTM_NEWROUTE, netlink.Create | netlink.Excl, unix.RT_SCOPE_UNIVERSE, 0}
	changing = operation{"changing", unix.RTM_NEWROUTE, netlink.Replace, unix.RT_SCOPE_UNIVERSE, 0}
	deleting = operation{"deleting", unix.RTM_DELROUTE, 0, unix.RT_SCOPE_NOWHERE, unix.ESRCH}
)

// perSend is how many routes go to the kernel in one go: as many answers fit into
// the socket's buffer, and beyond that there is little left to save.
const perSend = 128

// worthKeeping is the number of changed routes above which reading the table
// anew is cheaper than keeping what is known in step, one insertion at a time.
const worthKeeping = 256

// applyRoutes adds first and deletes last.
func (k *Kernel) applyRoutes(c plan.Changes) error {
	remember, drop := k.remember, k.drop
	if len(c.Add)+len(c.Replace)+len(c.Delete) > worthKeeping {
		remember, drop = func(topology.Route) {}, func(topology.Route) {}
		defer func() { k.fresh.routes = false }()
	}
	return errors.Join(
		k.writeRoutes(adding, c.Add, remember),
		k.writeRoutes(changing, c.Replace, remember),
		k.writeRoutes(deleting, c.Delete, drop),
	)
}

// writeRoutes does the operation to each route, and calls done where it succeeds.
func (k *Kernel) writeRoutes(op operation, routes []topology.Route, done func(topology.Route)) error {
	var errs []error
	for batch := range slices.Chunk(routes, perSend) {
		for i, err := range k.send(op, batch) {
			if err != nil {
				errs = append(errs, &RouteError{op.name, batch[i], err})
				continue
			}
			done(batch[i])
		}
	}
	return errors.Join(errs...)
}

var errNoDevice = errors.New("no such device any more")

// answerLimit is for answers that the socket had no room for, which are dropped in
// silence: the kernel answers before a send returns.
const answerLimit = time.Second

// send returns what the kernel answers to each of the routes. It takes messages
// and answers them in their order (netlink_rcv_skb of net/netlink/af_netlink.c).
func (k *Kernel) send(op operation, routes []topology.Route) []error {
	answers := make([]error, len(routes))
	messages := make([]netlink.Message, 0, len(routes))
	sent := make([]int, 0, len(routes)) // which route a message is about
	for i, r := range routes {
		index, ok := k.links.byName[r.Dev]
		if r.Dev != "" && !ok {
			answers[i] = errNoDevice
			continue
		}
		messages = append(messages, netlink.Message{
			Header: netlink.Header{Type: op.kind, Flags: netlink.Request | netlink.Acknowledge | op.flags},
			Data:   encodeRoute(r, index, op.scope),
		})
		sent = append(sent, i)
	}
	if len(messages) == 0 {
		return answers
	}
	_, err := k.writer.SendMessages(messages)
	err = errors.Join(err, k.writer.SetReadDeadline(time.Now().Add(answerLimit)))
	for _, i := range sent {
		if err != nil {
			answers[i] = fmt.Errorf("asking the kernel: %w", err)
			continue
		}
		if answers[i], err = k.answer(op); err != nil {
			answers[i] = err
		}
	}
	return answers
}

// answer reads one answer. If one was lost, those that were read since it can't be
// told apart: that is the second error, and the socket is empty. Whoever gets an
// error reads the table anew.
func (k *Kernel) answer(op operation) (refused, lost error) {
	_, err := k.writer.Receive()
	var errno unix.Errno
	switch {
	case err == nil || op.done != 0 && errors.Is(err, op.done):
		return nil, nil
	case errors.As(err, &errno) && errno != unix.ENOBUFS:
		return errno, nil
	}
	return nil, errors.Join(fmt.Errorf("reading the kernel's answer: %w", err), k.emptyWriter())
}

// emptyWriter reads what is left. A deadline that has passed would end the first
// read before it looks.
func (k *Kernel) emptyWriter() error {
	const moment = 20 * time.Millisecond
	if err := k.writer.SetReadDeadline(time.Now().Add(moment)); err != nil {
		return err
	}
	for {
		_, err := k.writer.Receive()
		var errno unix.Errno
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return k.writer.SetReadDeadline(time.Time{})
		case err != nil && !errors.As(err, &errno): // of the socket, not of the kernel
			return err
		}
	}
}

// encodeRoute makes struct rtmsg and its attributes (rtnetlink(7)).
func encodeRoute(r topology.Route, index int, scope byte) []byte {
	family := byte(unix.AF_INET)
	if r.Dst.Addr().Is6() {
		family = unix.AF_INET6
	}
	kind := byte(unix.RTN_UNICAST)
	if r.Type == topology.Unreachable {
		kind = unix.RTN_UNREACHABLE
	}
	b := make([]byte, 0, 96)
	b = append(b, family, byte(r.Dst.Bits()), 0, 0, unix.RT_TABLE_MAIN, byte(r.Protocol), scope, kind, 0, 0, 0, 0)
	b = appendAttribute(b, unix.RTA_DST, r.Dst.Addr().AsSlice())
	b = appendAttribute(b, unix.RTA_PRIORITY, binary.NativeEndian.AppendUint32(nil, uint32(r.Metric)))
	if r.Via.IsValid() {
		b = appendAttribute(b, unix.RTA_GATEWAY, r.Via.AsSlice())
	}
	if r.Src.IsValid() {
		b = appendAttribute(b, unix.RTA_PREFSRC, r.Src.AsSlice())
	}
	if index != 0 {
		b = appendAttribute(b, unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(index)))
	}
	return b
}

// appendAttribute adds struct rtattr and its value, whose lengths are multiples of
// four here.
func appendAttribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	return append(b, value...)
}

// remember and drop keep what is known in step with what was done.
func (k *Kernel) remember(r topology.Route) {
	i, found := slices.BinarySearchFunc(k.routes.ours, r, topology.Route.Compare)
	if found {
		k.routes.ours[i] = r
		return
	}
	k.routes.ours = slices.Insert(k.routes.ours, i, r)
}

func (k *Kernel) drop(r topology.Route) {
	if i, found := slices.BinarySearchFunc(k.routes.ours, r, topology.Route.Compare); found {
		k.routes.ours = slices.Delete(k.routes.ours, i, i+1)
	}
}
