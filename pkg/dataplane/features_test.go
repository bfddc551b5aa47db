package dataplane

import (
	"maps"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Properties of sets that google/nftables leaves out are read, only those of our table.
func TestShapesOfSets(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	if shapes, err := m.shapes(); err != nil || !sameShapes(m.masquerade, shapes) {
		t.Fatalf("ours have %+v, %v", shapes, err)
	}
	c := m.nft4test()
	add := func(table, name string, change func(*nftables.Set)) {
		t.Helper()
		set := &nftables.Set{Table: &nftables.Table{Name: table, Family: nftables.TableFamilyINet}, Name: name, KeyType: nftables.TypeIPAddr}
		change(set)
		m.must(c.AddSet(set, nil))
	}
	c.AddTable(&nftables.Table{Name: "theirs", Family: nftables.TableFamilyINet})
	add("theirs", "cluster4", func(*nftables.Set) {})
	add("theirs", "nodes4", func(s *nftables.Set) { s.Size = 7 })
	add(topology.Table, "sized", func(s *nftables.Set) { s.Size = 100 })
	add(topology.Table, "interval", func(s *nftables.Set) { s.Interval = true })
	add(topology.Table, "timeout", func(s *nftables.Set) { s.HasTimeout, s.Timeout = true, time.Hour })
	m.must(c.Flush())
	shapes, err := m.shapes()
	m.must(err)
	want := map[string]setShape{
		"cluster4": {flags: unix.NFT_SET_INTERVAL}, "nodes4": {}, "sized": {size: 100},
		"interval": {flags: unix.NFT_SET_INTERVAL}, "timeout": {flags: unix.NFT_SET_TIMEOUT, timeout: true},
	}
	if m.ipv6 {
		want["cluster6"], want["nodes6"] = want["cluster4"], want["nodes4"]
	}
	if !maps.Equal(shapes, want) {
		t.Errorf("shapes are %+v, want %+v", shapes, want)
	}
	if !sameShapes(m.masquerade, shapes) {
		t.Error("ours are not as we make them")
	}
}

// The sets of each family that is masqueraded have to be as we make them, both of them.
func TestSetsThatDifferFromOurs(t *testing.T) {
	both := &topology.Masquerade{Sources: prefixes("10.128.0.0/24", "fd01::/64")}
	ranges, addrs := setShape{flags: unix.NFT_SET_INTERVAL}, setShape{}
	good := map[string]setShape{"cluster4": ranges, "nodes4": addrs, "cluster6": ranges, "nodes6": addrs}
	if !sameShapes(both, good) {
		t.Error("ours are not as we make them")
	}
	for name := range good {
		other := maps.Clone(good)
		other[name] = setShape{flags: ranges.flags, size: 5}
		if sameShapes(both, other) {
			t.Errorf("%s is as we make it, with a limit", name)
		}
		four := &topology.Masquerade{Sources: both.Sources[:1]}
		if of4 := name == "cluster4" || name == "nodes4"; sameShapes(four, other) == of4 {
			t.Errorf("%s matters to IPv4: %t", name, !of4)
		}
	}
}

// A number of nf_tables is big-endian; what is shorter or longer is none.
func TestNumbersOfNetfilter(t *testing.T) {
	for n, want := range map[int]uint32{0: 0, 3: 0, 4: 0x01020304, 5: 0} {
		if got := bigEndian([]byte{1, 2, 3, 4, 5}[:n]); got != want {
			t.Errorf("%d bytes are %x, want %x", n, got, want)
		}
	}
}

// Expressions of rules are counted, of our table's alone: rules of another have the same handles.
func TestExpressionsAreCounted(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	c := m.nft4test()
	theirs := c.AddTable(&nftables.Table{Name: "theirs", Family: nftables.TableFamilyINet})
	chain := c.AddChain(&nftables.Chain{Name: "prerouting", Table: theirs})
	for range 20 {
		c.AddRule(&nftables.Rule{Table: theirs, Chain: chain, Exprs: isFamily(families[0])})
	}
	m.must(c.Flush())
	counts, err := m.expressions()
	m.must(err)
	rules := 0
	for _, chain := range []string{"prerouting", "postrouting"} {
		ours, err := c.GetRules(nftTable, &nftables.Chain{Name: chain, Table: nftTable})
		m.must(err)
		rules += len(ours)
		for _, r := range ours {
			if counts[r.Handle] != len(r.Exprs) {
				t.Errorf("rule %d of %s has %d expressions, want %d", r.Handle, chain, counts[r.Handle], len(r.Exprs))
			}
		}
	}
	if len(counts) != rules {
		t.Errorf("%d rules are counted, want %d", len(counts), rules)
	}
}
