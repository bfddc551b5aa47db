package inspect

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/nftables/expr"
)

// parseChains parses chains such as "base: yes jump a, some drop | a: no accept". A rule consists
// of its match, its verdict and a chain. It is named after its chain and its number.
func parseChains(text string) map[string][]rule {
	fits := map[string]truth{"no": no, "yes": yes, "some": some, "unknown": unknown}
	kinds := map[string]expr.VerdictKind{
		"accept": expr.VerdictAccept, "drop": expr.VerdictDrop, "return": expr.VerdictReturn, "pass": expr.VerdictContinue,
		"jump": expr.VerdictJump, "goto": expr.VerdictGoto, "queue": expr.VerdictQueue,
	}
	chains := map[string][]rule{}
	for _, chain := range strings.Split(text, " | ") {
		name, rules, _ := strings.Cut(chain, ": ")
		for i, r := range strings.Split(rules, ", ") {
			words := append(strings.Fields(r), "", "", "")
			match := func(Packet) (truth, expr.Verdict) {
				return fits[words[0]], expr.Verdict{Kind: kinds[words[1]], Chain: words[2]}
			}
			if words[0] != "" {
				chains[name] = append(chains[name], rule{fmt.Sprint(name, i+1), match})
			}
		}
	}
	return chains
}

func (o Outcome) text() string {
	text := map[[2]bool]string{{true, false}: "accepted", {false, true}: "dropped", {true, true}: "either", {false, false}: "neither"}[[2]bool{o.Accepted, o.Dropped}]
	if o.DroppedBy != "" {
		text += " by " + o.DroppedBy
	}
	if o.UncertainRule != "" {
		text += ", depends on " + o.UncertainRule
	}
	return text
}

// Packets pass chains as in nft_do_chain (net/netfilter/nf_tables_core.c) and ipt_do_table. After a
// rule that may match, both continuations count.
func TestOutcomeInChains(t *testing.T) {
	for text, want := range map[string]string{ // after the policy to accept, and to drop
		"base: ":                                                                                "accepted; dropped by its policy",
		"base: no drop, no accept":                                                              "accepted; dropped by its policy",
		"base: yes pass, unknown pass":                                                          "accepted; dropped by its policy",
		"base: yes accept, yes drop":                                                            "accepted; accepted",
		"base: yes drop, yes accept":                                                            "dropped by base1; dropped by base1",
		"base: yes return, yes drop":                                                            "accepted; dropped by its policy",
		"base: yes jump a, yes drop | a: no accept":                                             "dropped by base2; dropped by base2",
		"base: yes jump a, yes drop | a: yes return, yes accept":                                "dropped by base2; dropped by base2",
		"base: yes jump a, yes drop | a: yes accept":                                            "accepted; accepted",
		"base: yes jump a, yes accept | a: yes drop":                                            "dropped by a1; dropped by a1",
		"base: yes goto a, yes drop | a: no accept":                                             "accepted; dropped by its policy",
		"base: yes jump a, yes drop | a: yes goto b, yes accept | b: yes return":                "dropped by base2; dropped by base2",
		"base: yes jump a, yes jump a, yes accept | a: yes return, yes drop":                    "accepted; accepted",
		"base: some accept":                                                                     "accepted, depends on base1; either by its policy, depends on base1",
		"base: some drop":                                                                       "accepted; dropped by its policy",
		"base: unknown drop":                                                                    "either by base1, depends on base1; dropped by base1, depends on base1",
		"base: unknown drop, unknown accept":                                                    "either by base1, depends on base1; either by base1, depends on base1",
		"base: unknown accept, unknown drop":                                                    "either by base2, depends on base1; either by base2, depends on base1",
		"base: unknown return, yes accept":                                                      "accepted, depends on base1; either by its policy, depends on base1",
		"base: unknown return, yes drop":                                                        "either by base2, depends on base1; dropped by base2, depends on base1",
		"base: yes queue":                                                                       "either by base1, depends on base1; either by base1, depends on base1",
		"base: yes queue, yes accept":                                                           "either by base1, depends on base1; either by base1, depends on base1",
		"base: yes pass, yes jump a | a: unknown drop, yes accept":                              "either by a1, depends on a1; either by a1, depends on a1",
		"base: unknown jump a, yes accept | a: yes drop":                                        "either by a1, depends on base1; either by a1, depends on base1",
		"base: unknown jump a, yes accept | a: yes return":                                      "accepted; accepted",
		"base: unknown jump a, unknown drop, yes accept | a: yes return":                        "either by base2, depends on base2; either by base2, depends on base2",
		"base: some jump a, yes accept | a: yes drop":                                           "accepted; accepted",
		"base: some goto a, yes accept | a: yes return":                                         "accepted, depends on base1; either by its policy, depends on base1",
		"base: unknown pass, unknown jump a, yes drop | a: unknown pass, yes pass":              "dropped by base3; dropped by base3",
		"base: yes drop, yes jump a | a: yes drop":                                              "dropped by base1; dropped by base1",
		"base: unknown accept, yes jump a | a: unknown drop, yes accept":                        "either by a1, depends on base1; either by a1, depends on base1",
		"base: unknown jump a, yes jump b | a: unknown drop | b: unknown accept, yes drop":      "either by a1, depends on base1; either by a1, depends on base1",
		"base: yes jump a, yes accept | a: some accept, unknown drop, yes jump b | b: yes drop": "either by a2, depends on a1; either by a2, depends on a1",
	} {
		chains := parseChains(text)
		if got := evaluate(chains, "base", false, Packet{}).text() + "; " + evaluate(chains, "base", true, Packet{}).text(); got != want {
			t.Errorf("%s\nbecomes %s\nwant    %s", text, got, want)
		}
	}
}

// A chain is evaluated once for each packet. Otherwise as many nested chains as the kernel permits
// (NFT_JUMP_STACK_SIZE) would take years.
func TestOutcomeInManyChains(t *testing.T) {
	chains := map[string][]rule{}
	for level := range 16 {
		for range 16 {
			chains[fmt.Sprint(level)] = append(chains[fmt.Sprint(level)], parseChains(fmt.Sprint("c: yes jump ", level+1))["c"]...)
		}
	}
	if got := evaluate(chains, "0", true, Packet{}).text(); got != "dropped by its policy" {
		t.Error(got)
	}
}

// Chains are printed as nft and iptables-save print them.
func TestForwardText(t *testing.T) {
	p := Packet{In: "plainroute0", Out: "eth0", From: netip.MustParsePrefix("10.244.1.7/32"), To: netip.MustParsePrefix("10.244.2.0/24")}
	if got := p.String(); got != "from 10.244.1.7 (plainroute0) to 10.244.2.0/24 (eth0), new" {
		t.Error(got)
	}
	if p.Reply = true; !strings.HasSuffix(p.String(), "(eth0), answer") {
		t.Error(p)
	}
	if p.UDP = true; !strings.HasSuffix(p.String(), "(eth0), answer, UDP") {
		t.Error(p)
	}
	for want, c := range map[string]Chain{
		"chain inet fw f { type filter hook forward; policy accept; } with 3 rules": {Family: "inet", Table: "fw", Name: "f", Hook: HookForward, Rules: 3},
		"chain ip fw f { type filter hook forward; policy drop; } with 0 rules":     {Family: "ip", Table: "fw", Name: "f", Hook: HookForward, Drops: true},
		"ip6tables-legacy: chain FORWARD (policy DROP) with 2 rules":                {Family: "ip6", Table: "filter", Name: "FORWARD", Drops: true, Rules: 2, Legacy: true},
	} {
		if got := c.String(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// Packets of one family don't pass chains of the other.
func TestOutcomeOfTheOtherFamily(t *testing.T) {
	packets := map[string]Packet{"ip": {From: netip.MustParsePrefix("10.244.1.7/32")}, "ip6": {From: netip.MustParsePrefix("fd00::7/128")}}
	for _, family := range []string{"ip", "ip6", "inet"} {
		for of, p := range packets {
			want := "dropped by its policy"
			if family != of && family != "inet" {
				want = "accepted"
			}
			if got := (Chain{Family: family, Drops: true}).evaluate(nil, []Packet{p}).Outcomes[0].text(); got != want {
				t.Errorf("in a chain of %s a packet of %s is %s, want %s", family, of, got, want)
			}
		}
	}
}
