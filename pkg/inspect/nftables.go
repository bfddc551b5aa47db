package inspect

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ruleset is the part of a table that packets of a base chain may pass.
type ruleset struct {
	conn   *nftables.Conn
	table  *nftables.Table
	chains map[string][]rule
	sets   map[string]elementSet
}

type elementSet struct {
	intervals bool
	elements  []nftables.SetElement // sorted by their keys
}

// read reads a chain and those that it leads to.
func (t *ruleset) read(name string) error {
	if _, done := t.chains[name]; done {
		return nil
	}
	list, err := t.conn.GetRules(t.table, &nftables.Chain{Name: name})
	if err != nil {
		return fmt.Errorf("listing the rules of %s: %w", name, err)
	}
	var next []string
	for _, r := range list {
		t.chains[name] = append(t.chains[name], rule{fmt.Sprintf("the rule of handle %d in %s", r.Handle, name), func(p Packet) (truth, expr.Verdict) {
			return (&nftVM{p, t.sets, map[uint32]bits{}}).run(r.Exprs)
		}})
		for _, e := range r.Exprs {
			switch e := e.(type) {
			case *expr.Verdict:
				next = append(next, e.Chain)
			case *expr.Lookup:
				next = append(next, t.readSet(e.SetName)...)
			}
		}
	}
	for _, chain := range next {
		err = cmp.Or(err, t.read(chain))
	}
	return err
}

// readSet reads a set, and returns the chains that it leads to if it is a verdict map.
func (t *ruleset) readSet(name string) (chains []string) {
	if _, done := t.sets[name]; done {
		return nil
	}
	t.sets[name] = elementSet{elements: make([]nftables.SetElement, 1)} // with no key, so that lookups are unknown
	set, err := t.conn.GetSetByName(t.table, name)
	if err != nil {
		return nil // the library does not support all types
	}
	elements, err := t.conn.GetSetElements(set)
	if err != nil {
		return nil
	}
	slices.SortFunc(elements, func(a, b nftables.SetElement) int { return bytes.Compare(a.Key, b.Key) })
	t.sets[name] = elementSet{set.Interval, elements}
	for _, e := range elements {
		chains = append(chains, verdictOf(e).Chain)
	}
	return chains
}

// nftVM runs a rule's expressions as nft_do_chain of net/netfilter does, on partly known bits.
type nftVM struct {
	packet    Packet
	sets      map[string]elementSet
	registers map[uint32]bits
}

func (m *nftVM) run(exprs []expr.Any) (truth, expr.Verdict) {
	matches := yes
	for _, e := range exprs {
		t, v := m.step(e)
		if matches = matches.and(t); matches == no || v != pass {
			return matches, v
		}
	}
	return matches, pass
}

func (m *nftVM) step(e expr.Any) (truth, expr.Verdict) {
	switch e := e.(type) {
	case *expr.Counter, *expr.Log, *expr.Notrack:
	case *expr.Immediate:
		m.registers[e.Register] = certain(e.Data)
	case *expr.Meta:
		if !e.SourceRegister {
			m.registers[e.Register] = m.packet.meta(e.Key)
		}
	case *expr.Ct:
		if !e.SourceRegister {
			m.registers[e.Register] = m.packet.ct(e.Key)
		}
	case *expr.Payload:
		if e.OperationType == expr.PayloadLoad {
			m.registers[e.DestRegister] = m.packet.payload(e)
		}
	case *expr.Bitwise:
		m.bitwise(e)
	case *expr.Cmp:
		return m.cmp(e), pass
	case *expr.Range:
		return m.consume(e.Register).within(e.FromData, e.ToData).not(e.Op == expr.CmpOpNeq), pass
	case *expr.Lookup:
		return m.lookup(e)
	case *expr.Limit, *expr.Quota, *expr.Connlimit, *expr.Dynset:
		return some, pass
	case *expr.Match:
		return m.packet.xtMatch(e), pass
	case *expr.Target:
		return yes, xtTarget(e.Name)
	case *expr.Reject:
		return yes, drop
	case *expr.Queue:
		return yes, undecided
	case *expr.Verdict:
		return yes, *e
	default:
		return unknown, pass
	}
	return yes, pass
}

// consume reads a register and clears it. The library leaves out expressions that it does not
// support, so a later read must not return what an expression before such a one loaded.
func (m *nftVM) consume(register uint32) bits {
	b := m.registers[register]
	delete(m.registers, register)
	return b
}

// bitwise masks and flips. A shift, of which the library reads no mask, makes all bits unknown.
func (m *nftVM) bitwise(e *expr.Bitwise) {
	b := m.consume(e.SourceRegister)
	if len(e.Mask) != len(b.value) {
		b = bits{}
	}
	m.registers[e.DestRegister] = b.masked(e.Mask, e.Xor)
}

func (m *nftVM) cmp(e *expr.Cmp) truth {
	b := m.registers[e.Register]
	switch e.Op {
	case expr.CmpOpGte, expr.CmpOpLt: // not consumed: the other end of a range reads the register again
		return b.atLeast(e.Data).not(e.Op == expr.CmpOpLt)
	case expr.CmpOpLte, expr.CmpOpGt:
		return b.within(make([]byte, len(e.Data)), e.Data).not(e.Op == expr.CmpOpGt)
	}
	return m.consume(e.Register).equals(e.Data).not(e.Op == expr.CmpOpNeq)
}

func (m *nftVM) lookup(e *expr.Lookup) (truth, expr.Verdict) {
	key, set := m.consume(e.SourceRegister), m.sets[e.SetName]
	matches, v := no, pass
	for i, element := range set.elements {
		if t := set.matches(key, i); t != no { // elements don't overlap: one matches, or several are uncertain
			matches, v = t, verdictOf(element)
		}
	}
	switch {
	case !e.IsDestRegSet || e.DestRegister != unix.NFT_REG_VERDICT:
		return matches.not(e.Invert), pass
	case matches > yes:
		v = undecided
	}
	return matches, v
}

// matches compares a key with one element. Of a concatenation only the first field counts.
func (s elementSet) matches(key bits, i int) truth {
	e, n := s.elements[i], len(key.value)
	switch {
	case e.IntervalEnd:
		return no
	case len(e.Key) < n || n == 0:
		return unknown
	case e.KeyEnd == nil && s.intervals:
		// It extends to the next element, which begins or ends another.
		t := key.atLeast(e.Key)
		for _, next := range s.elements[i+1:] {
			if !bytes.Equal(next.Key, e.Key) {
				return t.and(key.atLeast(next.Key).not(true))
			}
		}
		return t
	case e.KeyEnd == nil:
		e.KeyEnd = e.Key
	}
	t := key.within(e.Key[:n], e.KeyEnd[:n])
	if t == yes && len(e.Key) > n {
		return unknown
	}
	return t
}

// verdictOf returns the verdict of a verdict map's element (NFTA_VERDICT_CODE and
// NFTA_VERDICT_CHAIN of linux/netfilter/nf_tables.h), which is zero for an element of another set.
func verdictOf(e nftables.SetElement) (v expr.Verdict) {
	eachAttribute(e.Val, func(attrs *netlink.AttributeDecoder) {
		attrs.ByteOrder = binary.BigEndian
		switch attrs.Type() {
		case unix.NFTA_VERDICT_CODE:
			v.Kind = expr.VerdictKind(int32(attrs.Uint32()))
		case unix.NFTA_VERDICT_CHAIN:
			v.Chain = attrs.String()
		}
	})
	return v
}

// Chain is a base chain of nftables of type filter that forwarded packets pass. iptables-nft makes
// such chains too, in tables named filter, raw and mangle.
type Chain struct {
	Family, Table, Name string

	Hook     string    // forward, prerouting or postrouting
	Drops    bool      // its policy is to drop
	Rules    int       // the number of rules in the chain itself
	Outcomes []Outcome // of the packets that were passed in, in the same order
	Legacy   bool      // a chain of iptables-legacy, which nftables does not show
}

func (c Chain) String() string {
	policy := choose(c.Drops, "drop", "accept")
	if c.Legacy {
		return fmt.Sprintf("%stables-legacy: chain %s (policy %s) with %d rules", c.Family, c.Name, strings.ToUpper(policy), c.Rules)
	}
	return fmt.Sprintf("chain %s %s %s { type filter hook %s; policy %s; } with %d rules", c.Family, c.Table, c.Name, c.Hook, policy, c.Rules)
}

// nftFamilies are the table families whose chains a pod's packets pass.
var nftFamilies = map[nftables.TableFamily]string{
	nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet",
}

// HookForward is the hook where firewalls filter forwarded packets.
const (
	HookForward    = "forward"
	hookPrerouting = "prerouting"
)

// hookNames are the hooks that a forwarded packet passes.
var hookNames = map[nftables.ChainHook]string{
	*nftables.ChainHookPrerouting: hookPrerouting, *nftables.ChainHookForward: HookForward, *nftables.ChainHookPostrouting: "postrouting",
}

// ForwardChains returns the base chains that forwarded packets pass, with the packets' outcomes.
func (i *Inspector) ForwardChains(packets []Packet) (found []Chain, err error) {
	err = i.eachChain(func(conn *nftables.Conn, c *nftables.Chain) error {
		family, routed := nftFamilies[c.Table.Family]
		if !routed || c.Hooknum == nil || hookNames[*c.Hooknum] == "" || c.Type != nftables.ChainTypeFilter {
			return nil
		}
		table := ruleset{conn, c.Table, map[string][]rule{"": nil}, map[string]elementSet{}}
		if err := table.read(c.Name); err != nil {
			return err
		}
		chain := Chain{Family: family, Table: c.Table.Name, Name: c.Name, Hook: hookNames[*c.Hooknum], Drops: *c.Policy == nftables.ChainPolicyDrop}
		found = append(found, chain.evaluate(table.chains, packets))
		return nil
	})
	return found, err
}

// evaluate returns the chain with its number of rules and the outcomes of packets.
func (c Chain) evaluate(chains map[string][]rule, packets []Packet) Chain {
	c.Rules = len(chains[c.Name])
	for _, p := range packets {
		if c.Hook == hookPrerouting {
			p.Out = "" // not routed yet
		}
		outcome := Outcome{Accepted: true} // of a packet of the other family, which does not pass the chain
		if c.Family == "inet" || (c.Family == "ip") == p.is4() {
			outcome = evaluate(chains, c.Name, c.Drops, p)
		}
		c.Outcomes = append(c.Outcomes, outcome)
	}
	return c
}

// Chains returns the names of all chains of nftables.
func (i *Inspector) Chains() (names []string, err error) {
	err = i.eachChain(func(_ *nftables.Conn, c *nftables.Chain) error {
		names = append(names, c.Name)
		return nil
	})
	return names, err
}

// eachChain calls f with each chain of nftables. The connection opens a socket for each request,
// because the library matches answers by their order: on a shared socket, the unread rest of one
// answer would be taken for the next.
func (i *Inspector) eachChain(f func(*nftables.Conn, *nftables.Chain) error) error {
	return i.conn.Do(func() error {
		conn := &nftables.Conn{}
		chains, err := conn.ListChains()
		if err != nil {
			return fmt.Errorf("listing chains: %w", err)
		}
		for _, c := range chains {
			if err := f(conn, c); err != nil {
				return err
			}
		}
		return nil
	})
}
