package dataplane

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

func prefixes(all ...string) (parsed []netip.Prefix) {
	for _, p := range all {
		parsed = append(parsed, netip.MustParsePrefix(p))
	}
	return parsed
}

// by makes the attributes of a way: a destination, a gateway if any, a device if any.
func by(dst, via string, oif uint32) [][]byte {
	all := [][]byte{addressAttribute(unix.RTA_DST, dst)}
	if via != "" {
		all = append(all, addressAttribute(unix.RTA_GATEWAY, via))
	}
	if oif != 0 {
		all = append(all, numberAttribute(unix.RTA_OIF, oif))
	}
	return all
}

// emptyFacts keeps foreign routes for two ranges of IPv4 and one of IPv6.
func emptyFacts() *routeFacts {
	return &routeFacts{
		table:           topology.MainTable,
		blocks:          prefixes("10.128.0.0/16", "192.168.0.0/16", "fd01::/48"),
		representatives: map[egress]topology.Route{}, named: map[uint32]bool{},
	}
}

func routeTexts(routes []topology.Route) string {
	var all []string
	for _, r := range routes {
		all = append(all, r.String())
	}
	return strings.Join(all, "; ")
}

// Ours is taken with its mark; of the rest, what overlaps a range, is wide or of this host's
// address, and one by each gateway in a range and each device.
func TestRoutesThatAreTaken(t *testing.T) {
	links := testLinks()
	ours := func(family byte, attributes ...[]byte) []byte {
		return routeHeader(family, 24, 112, unix.RTN_UNICAST, append(attributes, numberAttribute(unix.RTA_PRIORITY, 2048))...)
	}
	two := func(dst string, hops ...[]byte) []byte {
		return unicast4(16, addressAttribute(unix.RTA_DST, dst), multipath(hops...))
	}
	gateway := addressAttribute(unix.RTA_GATEWAY, "192.168.1.1")
	for name, c := range map[string]struct {
		messages      [][]byte
		ours, foreign string
	}{
		"ours": {[][]byte{ours(unix.AF_INET, by("10.128.1.0", "", 2)...)}, "10.128.1.0/24 dev eth0 proto 112 metric 2048", ""},
		"ours elsewhere": {
			[][]byte{ours(unix.AF_INET, by("20.1.0.0", "", 2)...), unicast4(16, by("20.2.0.0", "", 2)...)},
			"20.1.0.0/24 dev eth0 proto 112 metric 2048", "20.2.0.0/16 dev eth0 proto 4",
		},
		"next hop that joined ours": {
			[][]byte{ours(unix.AF_INET6, addressAttribute(unix.RTA_DST, "fd01::"), multipath(nextHop(0, 2), nextHop(0, 3)))},
			"fd01::/24 dev eth0 proto 112 metric 2048", "fd01::/24 dev eth1 metric 2048",
		},
		"in a range":          {[][]byte{unicast4(24, by("10.128.7.0", "", 2)...), unicast4(24, by("10.128.8.0", "", 2)...)}, "", "10.128.7.0/24 dev eth0 proto 4; 10.128.8.0/24 dev eth0 proto 4"},
		"all next hops":       {[][]byte{two("10.128.0.0", nextHop(0, 2), nextHop(0, 2))}, "", "10.128.0.0/16 dev eth0 proto 4; 10.128.0.0/16 dev eth0 proto 4"},
		"wide":                {[][]byte{unicast4(7, by("20.0.0.0", "", 2)...), unicast4(7, by("22.0.0.0", "", 2)...)}, "", "20.0.0.0/7 dev eth0 proto 4; 22.0.0.0/7 dev eth0 proto 4"},
		"narrower than that":  {[][]byte{unicast4(8, by("20.0.0.0", "", 2)...), unicast4(8, by("21.0.0.0", "", 2)...)}, "", "20.0.0.0/8 dev eth0 proto 4"},
		"of a host's address": {[][]byte{routeHeader(unix.AF_INET, 24, 2, unix.RTN_UNICAST, by("20.1.1.0", "", 2)...), routeHeader(unix.AF_INET, 24, 2, unix.RTN_UNICAST, by("20.1.2.0", "", 2)...)}, "", "20.1.1.0/24 dev eth0 proto 2; 20.1.2.0/24 dev eth0 proto 2"},
		"by each device":      {[][]byte{unicast4(16, by("20.1.0.0", "", 2)...), unicast4(16, by("20.2.0.0", "", 3)...), unicast4(16, by("20.3.0.0", "", 3)...)}, "", "20.1.0.0/16 dev eth0 proto 4; 20.2.0.0/16 dev eth1 proto 4"},
		"by each gateway in a range": {
			[][]byte{unicast4(16, by("20.1.0.0", "192.168.1.1", 2)...), unicast4(16, by("20.2.0.0", "192.168.1.2", 2)...), unicast4(16, by("20.3.0.0", "192.168.1.1", 2)...)},
			"", "20.1.0.0/16 via 192.168.1.1 dev eth0 proto 4; 20.2.0.0/16 via 192.168.1.2 dev eth0 proto 4",
		},
		"by others":                {[][]byte{unicast4(16, by("20.1.0.0", "30.0.0.1", 2)...), unicast4(16, by("20.2.0.0", "30.0.0.2", 2)...)}, "", "20.1.0.0/16 via 30.0.0.1 dev eth0 proto 4"},
		"first hop known":          {[][]byte{unicast4(16, by("20.1.0.0", "", 2)...), two("20.2.0.0", nextHop(0, 2), nextHop(0, 3, gateway))}, "", "20.1.0.0/16 dev eth0 proto 4; 20.2.0.0/16 via 192.168.1.1 dev eth1 proto 4"},
		"second hop known":         {[][]byte{unicast4(16, by("20.1.0.0", "", 3)...), two("20.2.0.0", nextHop(0, 2), nextHop(0, 3))}, "", "20.1.0.0/16 dev eth1 proto 4; 20.2.0.0/16 dev eth0 proto 4"},
		"both hops known":          {[][]byte{two("20.1.0.0", nextHop(0, 2), nextHop(0, 3)), two("20.2.0.0", nextHop(0, 2), nextHop(0, 3))}, "", "20.1.0.0/16 dev eth0 proto 4; 20.1.0.0/16 dev eth1 proto 4"},
		"nowhere":                  {[][]byte{routeHeader(unix.AF_INET, 16, 4, unix.RTN_BLACKHOLE, by("20.1.0.0", "", 0)...)}, "", ""},
		"nowhere, within a range":  {[][]byte{routeHeader(unix.AF_INET, 24, 4, unix.RTN_BLACKHOLE, by("10.128.1.0", "", 0)...)}, "", "blackhole 10.128.1.0/24 proto 4"},
		"in a range, and then not": {[][]byte{unicast4(24, by("10.128.7.0", "", 2)...), unicast4(16, by("20.1.0.0", "", 2)...)}, "", "10.128.7.0/24 dev eth0 proto 4; 20.1.0.0/16 dev eth0 proto 4"},
	} {
		f := emptyFacts()
		for _, b := range c.messages {
			f.takeBytes(t, b, links)
		}
		if got := routeTexts(values(f.ours)); got != c.ours {
			t.Errorf("%s: ours are %q, want %q", name, got, c.ours)
		}
		if got := routeTexts(f.foreign); got != c.foreign {
			t.Errorf("%s: foreign are %q, want %q", name, got, c.foreign)
		}
		if f.unread {
			t.Errorf("%s: next hops are to be read", name)
		}
	}
}

// takeBytes takes a route.
func (f *routeFacts) takeBytes(t *testing.T, b []byte, links *linkFacts) {
	t.Helper()
	var m message
	if !m.parse(b) {
		t.Fatalf("%v is not a route", b)
	}
	f.take(&m, links)
}

// Next hops that are objects are to be read where a route that matters names one, or one that may
// do. Those that matter are remembered, with the members of a group.
func TestNextHopsThatAreToBeRead(t *testing.T) {
	links := testLinks()
	named := func(bits byte, dst string, oif, id uint32) []byte {
		return unicast4(bits, append(by(dst, "", oif), numberAttribute(routeObject, id))...)
	}
	known := map[uint32]object{1: {hop: hop{oif: 2}}, 2: {members: []uint32{1, 3}}, 3: {hop: hop{oif: 3}}}
	for name, c := range map[string]struct {
		bytes  []byte
		unread bool
		named  []uint32
	}{
		"none":                                {unicast4(24, by("10.128.1.0", "", 2)...), false, nil},
		"none, outside":                       {unicast4(16, by("20.1.0.0", "", 2)...), false, nil},
		"one":                                 {named(24, "10.128.1.0", 0, 1), true, []uint32{1}},
		"one, whose device the route has":     {named(24, "10.128.1.0", 2, 1), true, []uint32{1}},
		"group":                               {named(24, "10.128.1.0", 0, 2), true, []uint32{1, 2, 3}},
		"outside":                             {named(16, "20.1.0.0", 0, 1), true, nil},
		"outside, whose device the route has": {named(16, "20.1.0.0", 2, 1), false, nil},
	} {
		unread, read := emptyFacts(), emptyFacts()
		read.objects = known
		for _, f := range []*routeFacts{unread, read} {
			f.takeBytes(t, c.bytes, links)
			f.takeBytes(t, unicast4(24, by("10.128.99.0", "", 2)...), links) // which takes nothing back
		}
		if unread.unread != c.unread || read.unread {
			t.Errorf("%s: unread before %t, and after %t", name, unread.unread, read.unread)
		}
		maps.DeleteFunc(read.named, func(_ uint32, is bool) bool { return !is })
		if got := slices.Sorted(maps.Keys(read.named)); !slices.Equal(got, c.named) {
			t.Errorf("%s: named are %v, want %v", name, got, c.named)
		}
	}
}

// A prefix overlaps, or is within, one of several sorted ones, wherever that is among them.
func TestOverlapsOfBlocks(t *testing.T) {
	blocks := prefixes("10.0.0.0/16", "10.2.0.0/16", "10.4.0.0/16", "fd01::/48")
	for p, want := range map[string][2]bool{
		"9.0.0.0/8": {}, "10.1.0.0/16": {}, "10.3.0.0/16": {}, "10.5.0.0/16": {}, "fd02::/48": {}, "fd00::/48": {},
		"10.0.0.0/15": {true, false}, "10.0.0.0/8": {true, false}, "10.1.0.0/8": {true, false}, "10.4.0.0/14": {true, false}, "fd01::/47": {true, false}, "0.0.0.0/0": {true, false},
		"10.0.0.0/16": {true, true}, "10.0.0.0/24": {true, true}, "10.2.255.0/24": {true, true}, "10.4.1.1/32": {true, true}, "10.4.0.0/16": {true, true}, "fd01::/64": {true, true}, "fd01:0:0:1::/64": {true, true},
	} {
		p := netip.MustParsePrefix(p)
		if got := [2]bool{overlap(blocks, p), within(blocks, p)}; got != want {
			t.Errorf("%s: overlap, within are %v, want %v", p, got, want)
		}
	}
	if p := netip.MustParsePrefix("10.0.0.0/8"); overlap(nil, p) || within(nil, p) {
		t.Error("something is within nothing")
	}
	facts := &routeFacts{blocks: blocks, ours: []*topology.Route{{Dst: netip.MustParsePrefix("10.1.0.0/24")}, {Dst: netip.MustParsePrefix("10.2.3.0/24")}, {Dst: netip.MustParsePrefix("10.2.0.0/15")}}}
	if got := facts.outside(); !slices.Equal(got, prefixes("10.1.0.0/24", "10.2.0.0/15")) {
		t.Errorf("outside are %v", got)
	}
	if facts.blocks = nil; len(facts.outside()) > 0 {
		t.Errorf("outside of everything are %v", facts.outside())
	}
}

// New ranges for foreign routes make the table stale only if the last read left out routes of them.
func TestRangesThatAreReadAgain(t *testing.T) {
	for name, c := range map[string]struct {
		read, now []netip.Prefix
		fresh     bool
	}{
		"the same":             {prefixes("10.0.0.0/16"), prefixes("10.0.0.0/16"), true},
		"less":                 {prefixes("10.0.0.0/16", "10.2.0.0/16"), prefixes("10.2.3.0/24"), true},
		"more":                 {prefixes("10.0.0.0/16"), prefixes("10.0.0.0/16", "10.2.0.0/16"), false},
		"wider":                {prefixes("10.0.0.0/16"), prefixes("10.0.0.0/15"), false},
		"all":                  {prefixes("10.0.0.0/16"), nil, false},
		"of all":               {nil, prefixes("10.0.0.0/16"), true},
		"all, as before":       {nil, nil, true},
		"nothing in the world": {prefixes("10.0.0.0/16"), []netip.Prefix{}, true},
	} {
		k := &Kernel{routes: &routeFacts{blocks: c.read}, fresh: freshness{routes: true}}
		k.concern(c.now)
		if k.fresh.routes != c.fresh || len(k.concerns) != len(c.now) {
			t.Errorf("%s: still fresh %t, kept for %v", name, k.fresh.routes, k.concerns)
		}
	}
	k := &Kernel{}
	k.concern(prefixes("10.0.0.0/16"))
	if len(k.concerns) != 1 {
		t.Errorf("before the first look, it is kept for %v", k.concerns)
	}
}

// A notification is news, and makes stale what it is about, if it differs from what is kept.
func TestRouteNotifications(t *testing.T) {
	ours := func(dst, via string, attributes ...[]byte) []byte {
		return routeHeader(unix.AF_INET, 24, 112, unix.RTN_UNICAST, slices.Concat(by(dst, via, 2), [][]byte{numberAttribute(unix.RTA_PRIORITY, 2048)}, attributes)...)
	}
	joined := routeHeader(unix.AF_INET6, 64, 112, unix.RTN_UNICAST, addressAttribute(unix.RTA_DST, "fd01::"), numberAttribute(unix.RTA_PRIORITY, 2048), multipath(nextHop(0, 2), nextHop(0, 3)))
	advertised := func(oif uint32) []byte {
		return routeHeader(unix.AF_INET6, 48, unix.RTPROT_RA, unix.RTN_UNICAST, by("2001:db8::", "", oif)...)
	}
	two := func(first, second uint32) []byte {
		return unicast4(16, addressAttribute(unix.RTA_DST, "20.7.0.0"), multipath(nextHop(0, first), nextHop(0, second)))
	}
	kept := [][]byte{
		ours("10.128.1.0", "192.168.1.12"), ours("10.128.2.0", "192.168.1.13"), unicast4(24, by("10.128.7.0", "", 2)...),
		unicast4(16, by("20.1.0.0", "192.168.1.1", 2)...), unicast6(48, by("2001:db9::", "", 2)...), // each the first by its egress
	}
	fresh, oursStale, stale, allStale := freshness{routes: true, ours: true}, freshness{routes: true}, freshness{ours: true}, freshness{}
	for name, c := range map[string]struct {
		bytes   []byte
		deleted bool
		left    freshness
	}{
		"our own, known":                      {kept[0], false, fresh},
		"our own, by another gateway":         {ours("10.128.1.0", "192.168.1.99"), false, oursStale},
		"another of our own, deleted":         {ours("10.128.1.0", "192.168.1.99"), true, oursStale},
		"our own, which was gone":             {ours("10.128.3.0", "192.168.1.12"), true, fresh},
		"our own, joined by another's":        {joined, false, allStale},
		"foreign in a range":                  {unicast4(24, by("10.128.8.0", "", 2)...), false, stale},
		"foreign in a range, deleted":         {kept[2], true, stale},
		"foreign elsewhere":                   {unicast4(16, by("20.2.0.0", "192.168.1.1", 2)...), false, fresh},
		"foreign elsewhere, deleted":          {unicast4(16, by("20.2.0.0", "192.168.1.1", 2)...), true, fresh},
		"foreign by a new gateway":            {unicast4(16, by("20.2.0.0", "192.168.1.2", 2)...), false, stale},
		"the one that stood for all":          {kept[3], true, stale},
		"foreign by an unknown gateway, gone": {unicast4(16, by("20.2.0.0", "192.168.1.2", 2)...), true, fresh},
		"to nowhere":                          {routeHeader(unix.AF_INET, 16, 4, unix.RTN_BLACKHOLE, by("20.2.0.0", "", 0)...), false, fresh},
		"by two known":                        {two(2, 2), false, fresh},
		"by a second that is not":             {two(2, 3), false, stale},
		"by a first that is not":              {two(3, 2), false, stale},
		"advertised":                          {advertised(2), false, stale},
		"advertised no more":                  {advertised(2), true, fresh},
		"advertised by another link":          {advertised(1), false, stale},
		"advertised by a known link":          {advertised(4), false, fresh},
		"by an object, as others":             {unicast4(16, append(by("20.2.0.0", "", 0), numberAttribute(routeObject, 1))...), false, fresh},
		"no route of the main table":          {changedAt(kept[0], 4, 100), true, fresh},
	} {
		k := &Kernel{links: testLinks(), routes: emptyFacts(), advertised: map[string]bool{"wan0": true}, seen: map[egress]bool{}, fresh: freshness{routes: true, ours: true}}
		k.links.note(4, linkIdent{name: "wan0"}, false)
		for _, b := range append(kept, unicast6(48, by("2001:dba::", "", 4)...)) {
			k.routes.takeBytes(t, b, k.links)
		}
		k.routes.objects = map[uint32]object{1: {hop: hop{oif: 2, via: netip.MustParseAddr("192.168.1.1")}}}
		kind := netlink.HeaderType(unix.RTM_NEWROUTE)
		if c.deleted {
			kind = unix.RTM_DELROUTE
		}
		news := k.learnOne(netlink.Message{Header: netlink.Header{Type: kind}, Data: c.bytes})
		if news != (c.left != fresh) || k.fresh != c.left {
			t.Errorf("%s: news %t, fresh are %+v, want %+v", name, news, k.fresh, c.left)
		}
	}
}

// TestOwnRoutesFollowNotifications has other programs change routes of ours. What is kept follows
// if the key has one route; otherwise it is read again.
func TestOwnRoutesFollowNotifications(t *testing.T) {
	route := func(dst, via string) []byte {
		return routeHeader(unix.AF_INET, 24, 112, unix.RTN_UNICAST, append(by(dst, via, 2), numberAttribute(unix.RTA_PRIORITY, 2048))...)
	}
	const first, second = "10.128.1.0/24 via 192.168.1.12 dev eth0 proto 112 metric 2048", "10.128.2.0/24 via 192.168.1.13 dev eth0 proto 112 metric 2048"
	for name, c := range map[string]struct {
		bytes   []byte
		deleted bool
		flags   netlink.HeaderFlags
		want    []string // nil: they are read again
	}{
		"deleted":             {route("10.128.2.0", "192.168.1.13"), true, 0, []string{first}},
		"added":               {route("10.128.3.0", "192.168.1.14"), false, unix.NLM_F_CREATE, []string{first, second, "10.128.3.0/24 via 192.168.1.14 dev eth0 proto 112 metric 2048"}},
		"replaced":            {route("10.128.2.0", "192.168.1.99"), false, unix.NLM_F_REPLACE, []string{first, "10.128.2.0/24 via 192.168.1.99 dev eth0 proto 112 metric 2048"}},
		"prepended":           {route("10.128.2.0", "192.168.1.99"), false, unix.NLM_F_CREATE, nil},
		"appended":            {route("10.128.2.0", "192.168.1.99"), false, unix.NLM_F_CREATE | unix.NLM_F_APPEND, nil},
		"replaced, unknown":   {route("10.128.3.0", "192.168.1.14"), false, unix.NLM_F_REPLACE, nil},
		"another one deleted": {route("10.128.2.0", "192.168.1.99"), true, 0, nil},
	} {
		k := &Kernel{links: testLinks(), routes: emptyFacts(), fresh: freshness{routes: true, ours: true}}
		for _, b := range [][]byte{route("10.128.1.0", "192.168.1.12"), route("10.128.2.0", "192.168.1.13")} {
			k.routes.takeBytes(t, b, k.links)
		}
		k.routes.shown = true
		shown := k.routes.ours
		kind := netlink.HeaderType(unix.RTM_NEWROUTE)
		if c.deleted {
			kind = unix.RTM_DELROUTE
		}
		news := k.learnOne(netlink.Message{Header: netlink.Header{Type: kind, Flags: c.flags}, Data: c.bytes})
		if !news || k.fresh.ours == (c.want == nil) {
			t.Errorf("%s: news %t, fresh %t", name, news, k.fresh.ours)
		}
		if got := lines(values(k.routes.ours)); c.want != nil && !slices.Equal(got, c.want) {
			t.Errorf("%s: kept are %q, want %q", name, got, c.want)
		}
		if got := lines(values(shown)); !slices.Equal(got, []string{first, second}) {
			t.Errorf("%s: what was shown became %q", name, got)
		}
	}
}

func lines(routes []topology.Route) []string {
	all := make([]string, len(routes))
	for i, r := range routes {
		all[i] = r.String()
	}
	return all
}

// Before the first look everything is news, and while routes of ours are to be read, each of them.
func TestNotificationsOfUnknownObjects(t *testing.T) {
	own := routeHeader(unix.AF_INET, 24, 112, unix.RTN_UNICAST, append(by("10.128.1.0", "", 2), numberAttribute(unix.RTA_PRIORITY, 2048))...)
	notified := netlink.Message{Header: netlink.Header{Type: unix.RTM_NEWROUTE}, Data: own}
	named := netlink.Message{Header: netlink.Header{Type: unix.RTM_NEWNEXTHOP}, Data: objectMessage(0, numberAttribute(unix.NHA_ID, 7))}
	k := &Kernel{links: testLinks()}
	if !k.learnOne(notified) || !k.learnOne(named) {
		t.Error("before the first look something is no news")
	}
	k.routes = emptyFacts()
	k.routes.takeBytes(t, own, k.links)
	for _, now := range []freshness{{routes: true}, {ours: true}, {}} {
		if k.fresh = now; !k.learnOne(notified) || k.fresh.ours || k.fresh.routes != now.routes {
			t.Errorf("of %+v is left %+v", now, k.fresh)
		}
	}
	for _, is := range []bool{false, true} {
		k.routes.named[7], k.fresh.routes = is, true
		if news := k.learnOne(named); news != is || k.fresh.routes == is {
			t.Errorf("that routes name the next hop is %t, its change is news %t, and routes are fresh %t", is, news, k.fresh.routes)
		}
	}
}
