package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

// routeFacts are our routes, sorted, and the relevant foreign ones of their table and of main.
type routeFacts struct {
	ours            []*topology.Route
	foreign         []topology.Route          // those of main
	beside          []topology.Route          // the foreign ones of our table, if that is not main
	table           uint32                    // the number of our table
	blocks          []netip.Prefix            // for which foreign routes are kept, disjoint and sorted; nil: all are kept
	representatives map[egress]topology.Route // foreign routes outside the blocks, one for each egress
	objects         map[uint32]object         // nexthop objects by their ids, nil if they were not read
	named           map[uint32]bool           // the ids to which kept routes refer, and those of members of such groups
	unread          bool                      // routes refer to objects that were not read
	followed        int                       // the number of changes of ours by notifications since they were read
	shown           bool                      // ours are in a result of Observe
}

// loadRoutes reads links and routes together, because routes refer to links.
func (k *Kernel) loadRoutes() error {
	links, byIndex, err := k.readLinks()
	if err != nil {
		return err
	}
	routes, err := k.readRoutes(links, byIndex)
	if err != nil {
		return fmt.Errorf("listing routes: %w", err)
	}
	if err := errors.Join(k.findStrays(links), k.loadRules()); err != nil {
		return err
	}
	k.rememberAdvertised(byIndex)
	links.keepRouted(byIndex, slices.Concat(routes.foreign, routes.beside), k.cfg.Bridge)
	k.links, k.routes = links, routes
	k.fresh.routes, k.fresh.ours, k.fresh.sysctls = true, true, false
	return nil
}

// rememberAdvertised keeps the names of links that have received router advertisements. A recreated
// link has the kernel's default of accept_ra, 1, with which a forwarding host receives none, so
// there would be no further sign of it.
func (k *Kernel) rememberAdvertised(byIndex map[int]*topology.Link) {
	for _, link := range byIndex {
		if link.RouterAdvertised {
			k.advertised[link.Name] = true
		}
		link.RouterAdvertised = k.advertised[link.Name]
	}
}

// readRoutes reads the table until the result is whole. If a route of ours leads outside the
// blocks, such as to a Node that has left, foreign routes to there matter too.
func (k *Kernel) readRoutes(links *linkFacts, byIndex map[int]*topology.Link) (*routeFacts, error) {
	blocks := k.concerns
	return RetryDump(func() (*routeFacts, error) {
		facts, err := k.dumpRoutes(blocks, links, byIndex)
		if err != nil {
			return nil, err
		}
		outside := facts.outside()
		switch {
		case facts.unread:
			k.objects = true
		case len(outside) > 0:
			blocks = topology.Outermost(slices.Concat(blocks, outside))
		default:
			return facts, nil
		}
		return nil, rtnl.ErrDumpInterrupted // it is read again
	})
}

func (k *Kernel) dumpRoutes(blocks []netip.Prefix, links *linkFacts, byIndex map[int]*topology.Link) (*routeFacts, error) {
	facts := &routeFacts{table: k.table(), blocks: blocks, representatives: map[egress]topology.Route{}, named: map[uint32]bool{}}
	if k.routes != nil {
		facts.ours = make([]*topology.Route, 0, len(k.routes.ours)+max(worthKeeping, k.bulk))
	}
	if k.objects {
		var err error
		if facts.objects, err = k.readObjects(); err != nil {
			return nil, err
		}
	}
	take := func(m *message) {
		if link := byIndex[m.oif]; link != nil && m.advertised() {
			link.RouterAdvertised = true
		}
		facts.take(m, links)
	}
	err := k.dump(unix.RT_TABLE_MAIN, unix.RTPROT_UNSPEC, take)
	if err == nil && facts.table != unix.RT_TABLE_MAIN {
		err = k.dump(facts.table, unix.RTPROT_UNSPEC, take)
	}
	slices.SortFunc(facts.ours, topology.CompareRoutes)
	if k.routes != nil {
		topology.ShareRoutes(facts.ours, k.routes.ours)
	}
	return facts, err
}

// loadOurs reads only our own routes, which the kernel filters by protocol: among a million of
// others that takes a fifth of the time of a full read.
func (k *Kernel) loadOurs() error {
	ours, err := RetryDump(func() ([]*topology.Route, error) {
		ours := make([]*topology.Route, 0, len(k.routes.ours)+max(worthKeeping, k.bulk))
		err := k.dump(k.table(), topology.Protocol, func(m *message) {
			if m.mine() {
				r := m.route(k.links)
				ours = append(ours, &r)
			}
		})
		return ours, err
	})
	if err != nil {
		return fmt.Errorf("listing routes of ours: %w", err)
	}
	slices.SortFunc(ours, topology.CompareRoutes)
	topology.ShareRoutes(ours, k.routes.ours)
	k.routes.ours, k.routes.followed, k.fresh.ours = ours, 0, true
	return nil
}

// dump calls f with each route of a table that has the protocol; 0: any. The message is valid during
// the call.
func (k *Kernel) dump(table uint32, protocol uint8, f func(*message)) error {
	for _, family := range k.families {
		if err := k.dumpFamily(family, table, protocol, f); err != nil {
			return fmt.Errorf("family %d: %w", family, err)
		}
	}
	return nil
}

// dumpFamily ignores routes of other families, which a kernel without this one returns.
func (k *Kernel) dumpFamily(family uint8, table uint32, protocol uint8, f func(*message)) error {
	header := make([]byte, unix.SizeofRtMsg)
	header[0], header[5] = family, protocol
	header = putTable(header, 4, table)
	var m message
	err := k.rtnetlink.dump(unix.RTM_GETROUTE, header, func(kind uint16, data []byte) {
		if kind == unix.RTM_NEWROUTE && m.parse(data) && m.family == family && (table == anyTable || m.table == table) {
			f(&m)
		}
	})
	if absent(err) {
		return nil
	}
	return err
}

// absent reports whether an error means that there is nothing to read: the kernel lacks the address
// family, or the table does not exist because no route was ever added to it (fib_rules).
func absent(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT)
}

// holds reports whether a notification agrees with what is kept, as those of our own changes do. It
// contains the final state of its key, and notifications of a key arrive in order: if the last one
// agrees, what is kept is true.
func (k *Kernel) holds(m *message, deleted bool) bool {
	r := m.route(k.links)
	have := topology.RouteTo(k.routes.ours, r.Dst, r.Metric)
	if deleted {
		return have == nil
	}
	return have != nil && *have == r
}

// follow changes what is kept as a notification says, and reports whether that is certain: one
// route of the key was added, replaced or deleted. Otherwise the key may have several, because
// another program has appended or prepended one with our mark (fib_table_insert of
// net/ipv4/fib_trie.c). After many changes a read is cheaper.
func (k *Kernel) follow(m *message, header netlink.Header, deleted bool) bool {
	r := m.route(k.links)
	i, found := slices.BinarySearchFunc(k.routes.ours, &r, topology.CompareRoutes)
	replaced := header.Flags&unix.NLM_F_REPLACE != 0
	several := found && i+1 < len(k.routes.ours) && topology.CompareRoutes(k.routes.ours[i+1], &r) == 0
	certain := !m.shared() && !several && header.Flags&unix.NLM_F_APPEND == 0
	if deleted {
		certain = certain && found && *k.routes.ours[i] == r
	} else {
		certain = certain && found == replaced
	}
	if !certain || k.routes.followed == worthKeeping {
		return false
	}
	k.routes.followed++
	if k.routes.shown {
		k.routes.ours, k.routes.shown = slices.Clone(k.routes.ours), false
	}
	if deleted {
		k.drop(r)
	} else {
		k.remember(r)
	}
	return true
}
