package dataplane

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/google/nftables"

	"github.com/plainroute/plainroute/pkg/topology"
)

// The sets of each family that is masqueraded have to be as we make them, both of them. Those of
// another table, and further ones of ours, are of no concern.
func TestSetsThatDifferFromOurs(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
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
	got := *m.masquerade
	got.Cluster, got.Nodes = nil, nil
	if err := m.readSets(&got); err != nil || !reflect.DeepEqual(&got, m.masquerade) {
		t.Errorf("got %+v, %v, want %+v", got, err, m.masquerade)
	}
	for _, f := range families {
		for _, ours := range []*nftables.Set{f.clusterSet(), f.nodesSet()} {
			if !hasSet([]*nftables.Set{f.nodesSet(), f.clusterSet()}, ours) {
				t.Errorf("%s is not as we make it", ours.Name)
			}
			for change, other := range map[string]func(*nftables.Set){
				"name": func(s *nftables.Set) { s.Name = "theirs" }, "limit": func(s *nftables.Set) { s.Size = 5 },
				"interval": func(s *nftables.Set) { s.Interval = !s.Interval }, "timeout": func(s *nftables.Set) { s.HasTimeout = true },
				"expiry": func(s *nftables.Set) { s.Timeout = time.Hour }, "rules add": func(s *nftables.Set) { s.Dynamic = true },
				"constant": func(s *nftables.Set) { s.Constant = true },
			} {
				have := *ours
				if other(&have); hasSet([]*nftables.Set{&have}, ours) {
					t.Errorf("%s with another %s is as we make it", ours.Name, change)
				}
			}
		}
	}
	for name, missing := range map[string]string{"cluster4": "cluster", "nodes4": "nodes"} {
		c.DelTable(nftTable)
		c.AddTable(nftTable)
		other := families[0].clusterSet()
		if missing == "cluster" {
			other = families[0].nodesSet()
		}
		m.must(c.AddSet(other, nil))
		m.must(c.Flush())
		four := &topology.Masquerade{Sources: prefixes("10.128.0.0/24")}
		if err := m.readSets(four); !errors.Is(err, errForeign) {
			t.Errorf("without %s: %v", name, err)
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
