package topology

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestLookupIsTheLongestPrefix compares the index with a check of every route.
func TestLookupIsTheLongestPrefix(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		routes := rapid.SliceOfN(rapid.Custom(drawRoute), 0, 30).Draw(t, "routes")
		idx := newRouteIndex(routes)
		for range 20 {
			addr := drawAddr(t)
			var want *Route
			for i := range routes {
				r := &routes[i]
				if r.passedOver() || !r.Dst.Contains(addr) {
					continue
				}
				if want == nil || r.Dst.Bits() > want.Dst.Bits() || r.Dst == want.Dst && (r.Metric < want.Metric || r.Metric == want.Metric && r.proof() < want.proof()) {
					want = r
				}
			}
			got := idx.lookup(addr)
			if (got == nil) != (want == nil) || got != nil && !sameRoute(*got, *want, routes) {
				t.Fatalf("%s is reached by %v, not %v", addr, got, want)
			}
		}
	})
}

// sameRoute reports whether the index returned a route, with the source of another to its prefix if
// any has one.
func sameRoute(got, want Route, routes []Route) bool {
	beside := slices.ContainsFunc(routes, func(r Route) bool { return r.Dst == want.Dst && r.From.IsValid() && r.Dst.Bits() > 0 })
	want.From = got.From
	return got == want && got.From.IsValid() == beside
}

// drawAddr draws from so few that many are in each other's prefixes.
func drawAddr(t *rapid.T) netip.Addr {
	low := rapid.Uint16().Draw(t, "low")
	if rapid.Bool().Draw(t, "IPv6") {
		return netip.AddrFrom16([16]byte{0: 0xfd, 14: byte(low >> 8), 15: byte(low)})
	}
	return netip.AddrFrom4([4]byte{10, 0, byte(low >> 8), byte(low)})
}

func drawRoute(t *rapid.T) Route {
	addr := drawAddr(t)
	host := rapid.SampledFrom([]int{0, 1, 4, 8, 9, 12, 16, addr.BitLen()}).Draw(t, "host bits")
	r := Route{
		Dst:    netip.PrefixFrom(addr, addr.BitLen()-host).Masked(),
		Metric: rapid.Uint32Range(0, 3).Draw(t, "metric"), TOS: rapid.SampledFrom([]uint8{0, 0, 0, 4}).Draw(t, "TOS"),
		Dead: rapid.IntRange(0, 4).Draw(t, "dead") == 0, Encap: rapid.IntRange(0, 4).Draw(t, "encap") == 0,
		Type: rapid.SampledFrom([]RouteType{Unicast, Unicast, Unreachable, throw}).Draw(t, "type"),
	}
	if addr.Is6() && rapid.IntRange(0, 4).Draw(t, "for a source") == 0 {
		r.From = netip.MustParsePrefix("fd30::/16")
	}
	return r
}

func TestAddrsAreSortedAsNetipDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		addrs := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) netip.Addr {
			if rapid.Bool().Draw(t, "any IPv4") {
				return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "bytes")))
			}
			return drawAddr(t)
		}), 0, 40).Draw(t, "addrs")
		want := slices.SortedFunc(slices.Values(addrs), netip.Addr.Compare)
		if sortAddrs(addrs); !slices.Equal(addrs, want) {
			t.Fatalf("%v, not %v", addrs, want)
		}
	})
}

// TestTakenIndexFindsOverlaps compares the index with a check of every range.
func TestTakenIndexFindsOverlaps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var ranges []taken
		for _, r := range rapid.SliceOfN(rapid.Custom(drawRoute), 0, 20).Draw(t, "ranges") {
			ranges = append(ranges, taken{r.Dst, r.Dst.String()})
		}
		idx := newTakenIndex(slices.Clone(ranges))
		p := drawRoute(t).Dst
		want := slices.ContainsFunc(ranges, func(r taken) bool { return r.Overlaps(p) })
		if got := idx.overlap(p); (got != nil) != want || want && !got.Overlaps(p) {
			t.Fatalf("%s overlaps %v; it overlaps one: %t", p, got, want)
		}
	})
}
