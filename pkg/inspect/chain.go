package inspect

import (
	"fmt"
	"strings"

	"github.com/google/nftables"
)

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
