package doctor

import (
	"context"
	"strings"

	"github.com/plainroute/plainroute/pkg/dataplane"
)

// forwardPolicy looks for base chains of hook forward that drop what no rule accepts:
// an accept in any other chain, or of ours, does not help against them.
func forwardPolicy(_ context.Context, p *Patient) []Finding {
	if p.Kernel == nil {
		return Skip("the kernel can't be looked at", "")
	}
	chains, err := p.Kernel.ForwardChains()
	if err == nil {
		var legacy []dataplane.Chain
		legacy, err = p.Kernel.LegacyForwardChains()
		chains = append(chains, legacy...)
	}
	if err != nil {
		return Skip(err.Error(), "run it with CAP_NET_ADMIN")
	}
	var found []Finding
	for _, c := range chains {
		if !c.Drops {
			continue
		}
		cure := "accept what comes from and goes to the pods there, before it drops: " + acceptRules(c, p.Subnets()) +
			"; or have the firewall plugin accept what pods begin, and one rule more what others begin (--firewall-plugin, docs/install.md)"
		if c.Rules == 0 {
			found = append(found, Fail("a firewall drops all forwarded packets, so pods reach nobody beyond this node", c.String(), cure))
			continue
		}
		found = append(found, Warn("a firewall drops forwarded packets that none of its rules accepts; where none accepts those of pods, they reach nobody", c.String(), cure))
	}
	return found
}

// acceptRules gives the commands that let pods through a chain.
func acceptRules(c dataplane.Chain, subnets []string) string {
	program := "nft insert rule " + c.Family + " " + c.Table + " " + c.Name + " "
	if c.Legacy {
		program = c.Family + "tables-legacy -I " + c.Name + " "
	}
	var all []string
	for _, s := range subnets {
		family := "ip"
		if strings.Contains(s, ":") {
			family = "ip6"
		}
		switch {
		case c.Family != "inet" && c.Family != family:
		case c.Legacy:
			all = append(all, program+"-s "+s+" -j ACCEPT", program+"-d "+s+" -j ACCEPT")
		default:
			all = append(all, program+family+" saddr "+s+" accept", program+family+" daddr "+s+" accept")
		}
	}
	if len(all) == 0 {
		return "by the pods' bridge, in and out"
	}
	return strings.Join(all, "; ")
}
