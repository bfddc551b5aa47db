package doctor

import (
	"context"
	"strings"
)

// forwardPolicy looks for base chains of hook forward that drop what no rule accepts:
// an accept in any other chain, or of ours, does not help against them.
func forwardPolicy(_ context.Context, p *Patient) []Finding {
	if p.Kernel == nil {
		return Skip("the kernel can't be looked at", "")
	}
	chains, err := p.Kernel.ForwardChains()
	if err != nil {
		return Skip(err.Error(), "run it with CAP_NET_ADMIN")
	}
	var found []Finding
	for _, c := range chains {
		if !c.Drops {
			continue
		}
		cure := "accept what comes from and goes to the pods there, before it drops: " + acceptRules(c.Family, c.Table, c.Name, p.Subnets())
		if c.Rules == 0 {
			found = append(found, Fail("a firewall drops all forwarded packets, so pods reach nobody beyond this node", c.String(), cure))
			continue
		}
		found = append(found, Warn("a firewall drops forwarded packets that none of its rules accepts; where none accepts those of pods, they reach nobody", c.String(), cure))
	}
	return found
}

// acceptRules gives the commands that let pods through a chain of nftables.
func acceptRules(family, table, chain string, subnets []string) string {
	var all []string
	for _, s := range subnets {
		kind := "ip"
		if strings.Contains(s, ":") {
			kind = "ip6"
		}
		if family != "inet" && family != kind {
			continue
		}
		for _, side := range []string{"saddr", "daddr"} {
			all = append(all, strings.Join([]string{"nft insert rule", family, table, chain, kind, side, s, "accept"}, " "))
		}
	}
	if len(all) == 0 {
		return "nft insert rule " + family + " " + table + " " + chain + " iifname plainroute0 accept, and the same with oifname"
	}
	return strings.Join(all, "; ")
}
