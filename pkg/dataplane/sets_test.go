package dataplane

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

func addrs(all ...string) (parsed []netip.Addr) {
	for _, a := range all {
		parsed = append(parsed, netip.MustParseAddr(a))
	}
	return parsed
}

// elementTexts writes elements as their key, and ! after an end.
func elementTexts(elements []nftables.SetElement) (texts []string) {
	for _, e := range elements {
		addr, _ := netip.AddrFromSlice(e.Key)
		texts = append(texts, addr.String()+map[bool]string{true: "!"}[e.IntervalEnd])
	}
	return texts
}

// Of a prefix the kernel has the first address and the one after the last, where there is one; of
// each family its own.
func TestElementsOfSets(t *testing.T) {
	ranges := prefixes("10.128.0.0/16", "fd01::/48", "10.128.3.7/32", "240.0.0.0/4", "ff00::/8", "0.0.0.0/0")
	single := addrs("192.168.1.12", "fd00::12", "255.255.255.255")
	for i, want := range []string{
		"[10.128.0.0 10.129.0.0! 10.128.3.7 10.128.3.8! 240.0.0.0 0.0.0.0] [192.168.1.12 255.255.255.255]",
		"[fd01:: fd01:0:1::! ff00::] [fd00::12]",
	} {
		f := families[i]
		if got := fmt.Sprint(elementTexts(intervals(f, ranges)), elementTexts(singles(f, single))); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if got := elementTexts(intervals(families[0], prefixes("10.128.3.7/16"))); !slices.Equal(got, []string{"10.128.0.0", "10.129.0.0!"}) {
		t.Errorf("of a prefix with bits beyond its length: %v", got)
	}
}

// Sets are read back as they were written, in any order of the kernel's, and ranges that are not
// prefixes are foreign.
func TestElementsThatAreRead(t *testing.T) {
	element := func(addr string, end bool) nftables.SetElement {
		return nftables.SetElement{Key: netip.MustParseAddr(addr).AsSlice(), IntervalEnd: end}
	}
	for name, c := range map[string]struct {
		elements []nftables.SetElement
		want     []netip.Prefix
		ok       bool
	}{
		"none":                    {nil, nil, true},
		"one":                     {[]nftables.SetElement{element("10.0.0.0", false), element("10.0.1.0", true)}, prefixes("10.0.0.0/24"), true},
		"reversed":                {[]nftables.SetElement{element("10.0.1.0", true), element("10.0.0.0", false)}, prefixes("10.0.0.0/24"), true},
		"side by side":            {[]nftables.SetElement{element("10.0.1.0", false), element("10.0.1.0", true), element("10.0.2.0", true), element("10.0.0.0", false)}, prefixes("10.0.0.0/24", "10.0.1.0/24"), true},
		"in the other order":      {[]nftables.SetElement{element("10.0.1.0", true), element("10.0.1.0", false), element("10.0.0.0", false), element("10.0.2.0", true)}, prefixes("10.0.0.0/24", "10.0.1.0/24"), true},
		"to the top":              {[]nftables.SetElement{element("10.0.0.0", false), element("10.0.1.0", true), element("240.0.0.0", false)}, prefixes("10.0.0.0/24", "240.0.0.0/4"), true},
		"an end alone":            {[]nftables.SetElement{element("0.0.0.0", true), element("10.0.0.0", false), element("10.0.1.0", true)}, prefixes("10.0.0.0/24"), true},
		"no prefix":               {[]nftables.SetElement{element("10.0.0.0", false), element("10.0.0.3", true)}, nil, false},
		"a second without an end": {[]nftables.SetElement{element("10.0.0.0", false), element("10.0.1.0", true), element("10.0.2.0", false)}, nil, false},
		"everything":              {[]nftables.SetElement{{}}, nil, false},
		"a range":                 {[]nftables.SetElement{{Key: []byte{10, 0, 0, 0}, KeyEnd: []byte{10, 0, 0, 255}}}, nil, false},
		"for a time":              {[]nftables.SetElement{{Key: []byte{10, 0, 0, 0}, Timeout: time.Hour}, element("10.0.1.0", true)}, nil, false},
	} {
		if got, ok := parseIntervals(c.elements); ok != c.ok || !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, %t", name, got, ok)
		}
	}
	for name, e := range map[string]nftables.SetElement{"everything": {}, "a range": {Key: []byte{10, 0, 0, 0}, KeyEnd: []byte{10, 0, 0, 1}}, "for a time": {Key: []byte{10, 0, 0, 0}, Timeout: time.Hour}} {
		if !foreignElement(e) || foreignElement(nftables.SetElement{Key: e.Key}) != (name == "everything") {
			t.Errorf("that %s is no element of ours is not seen, or that one without it is", name)
		}
	}
	if p, ok := rangePrefix(netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("0.0.0.3")); ok {
		t.Errorf("three addresses are %v", p)
	}
	read := parseSingles([]nftables.SetElement{element("192.168.1.13", false), {Key: []byte{1, 2, 3}}, element("192.168.1.12", false)})
	if !slices.Equal(read, addrs("192.168.1.12", "192.168.1.13")) {
		t.Errorf("single addresses are %v", read)
	}
	for p, end := range map[string]string{"0.0.0.0/0": "", "10.0.0.1/32": "10.0.0.2", "10.0.0.0/31": "10.0.0.2", "::/0": "", "255.255.255.255/32": "", "fd00::/8": "fe00::"} {
		want, next := netip.MustParsePrefix(p), netip.Addr{}
		if end != "" {
			next = netip.MustParseAddr(end)
		}
		if got, ok := rangePrefix(want.Addr(), next); !ok || got != want {
			t.Errorf("to %q: got %v, want %v", end, got, want)
		}
	}
}

// A change of sets leads to what is kept: sorted, and the ranges without those within others.
func TestChangeOfSetsIsKept(t *testing.T) {
	before := &topology.Masquerade{Bridge: "br0", Cluster: prefixes("10.1.0.0/24", "10.3.0.0/24"), Nodes: addrs("192.168.1.12", "192.168.1.14")}
	after := changed(before, plan.SetChange{
		DeleteCluster: prefixes("10.3.0.0/24"), AddCluster: prefixes("10.0.0.0/16", "10.1.0.0/16"),
		DeleteNodes: addrs("192.168.1.14"), AddNodes: addrs("192.168.1.11", "192.168.1.13"),
	})
	want := &topology.Masquerade{Bridge: "br0", Cluster: prefixes("10.0.0.0/16", "10.1.0.0/16"), Nodes: addrs("192.168.1.11", "192.168.1.12", "192.168.1.13")}
	if !reflect.DeepEqual(after, want) {
		t.Errorf("got %+v, want %+v", after, want)
	}
	if len(before.Cluster) != 2 || before.Nodes[1] != netip.MustParseAddr("192.168.1.14") {
		t.Errorf("what was before became %+v", before)
	}
}

// A chain is ours if all of it is as we make it.
func TestChainsAreCompared(t *testing.T) {
	made := func() chain {
		return chains(&topology.Masquerade{Bridge: topology.Bridge, Sources: prefixes("10.128.0.0/24")})[0]
	}
	ours := made()
	for name, change := range map[string]func(*nftables.Chain){
		"":            func(*nftables.Chain) {},
		"type":        func(c *nftables.Chain) { c.Type = nftables.ChainTypeFilter },
		"no hook":     func(c *nftables.Chain) { c.Hooknum = nil },
		"hook":        func(c *nftables.Chain) { c.Hooknum = nftables.ChainHookForward },
		"no priority": func(c *nftables.Chain) { c.Priority = nil },
		"priority":    func(c *nftables.Chain) { c.Priority = nftables.ChainPriorityFilter },
		"no policy":   func(c *nftables.Chain) { c.Policy = nil },
		"policy":      func(c *nftables.Chain) { c.Policy = new(nftables.ChainPolicyDrop) },
	} {
		have := made()
		change(have.Chain)
		if reflect.DeepEqual(ours, have) != (name == "") {
			t.Errorf("with another %s it counts as ours, or ours does not", name)
		}
	}
	if rules := made().rules; reflect.DeepEqual(ours, chain{ours.Chain, rules[1:]}) || reflect.DeepEqual(ours, chain{ours.Chain, append(rules[:1:1], rules[0])}) {
		t.Error("with other rules it counts as ours")
	}
}

// Of rules it is taken what ours vary in: the bridge, pod subnets, and source addresses by link.
func TestRulesAreGuessed(t *testing.T) {
	for name, want := range masquerades() {
		got := &topology.Masquerade{}
		for _, c := range chains(want) {
			for _, rule := range c.rules {
				guess(got, rule)
			}
		}
		slices.SortFunc(got.Egress, topology.Egress.Compare)
		if got.Bridge != want.Bridge || !slices.Equal(got.Sources, want.Sources) || !slices.Equal(got.Egress, want.Egress) && len(want.Sources) > 0 {
			t.Errorf("%s: guessed %+v, want %+v", name, got, want)
		}
	}
	for name, rule := range map[string][]expr.Any{
		"of another destination": append(address(families[0].daddr, netip.MustParsePrefix("10.1.0.0/16"), expr.CmpOpNeq), &expr.Masq{}),
		"without masquerade":     address(families[0].saddr, netip.MustParsePrefix("10.1.0.0/16"), expr.CmpOpEq),
		"NAT of no address":      {&expr.NAT{}},
		"NAT of a bad address":   {&expr.Immediate{Data: []byte{1, 2, 3}}, &expr.NAT{}},
		"compared with nothing":  {&expr.Bitwise{Mask: []byte{255}}, &expr.Masq{}},
		"input device of a mark": {&expr.Meta{Key: expr.MetaKeyMARK}, equal([]byte("eth0"))},
	} {
		if guess := guessed(rule); !reflect.DeepEqual(guess, topology.Masquerade{}) {
			t.Errorf("%s: guessed %+v", name, guess)
		}
	}
	if got := guessed([]expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME}, equal(paddedName("br7"))}); got.Bridge != "br7" {
		t.Errorf("guessed %+v", got)
	}
}

func guessed(rule []expr.Any) (m topology.Masquerade) {
	guess(&m, rule)
	return m
}
