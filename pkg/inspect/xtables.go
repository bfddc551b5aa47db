package inspect

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// xtHeader is the size of the header of a match or a target: its size, its name and its revision
// (struct xt_entry_match of linux/netfilter/x_tables.h).
const xtHeader = 32

// xtRule is a rule as the kernel stores it. The kernel validated all offsets and sizes in it when
// it accepted the table (xt_check_entry_offsets, xt_check_target).
type xtRule struct {
	legacy
	blob   []byte // the whole rule
	target int    // offset of its target
	next   int    // offset of the next rule in the table
}

// parse reads the rules of a table, and evaluates packets in its chain FORWARD.
func (l legacy) parse(info xtInfo, table []byte, packets []Packet) Chain {
	chain := Chain{Family: l.family, Table: "filter", Name: "FORWARD", Hook: HookForward, Legacy: true}
	forward, policy := int(info.HookEntry[hookForward]), int(info.Underflow[hookForward])
	var rules []rule
	index := map[int]int{} // of a rule, by its offset
	name, number := "", 0
	for at := 0; at < len(table); {
		r := l.rule(table, at)
		if r.name() == "ERROR" { // the head of a user-defined chain
			name, number = unix.ByteSliceToString(r.blob[r.target+xtHeader:]), 0
		}
		if at == forward {
			name, number = chain.Name, 1
		}
		if at == policy {
			chain.Drops = r.verdict() == drop
		}
		index[at] = len(rules)
		rules = append(rules, rule{fmt.Sprintf("rule %d of %s", number, name), r.match})
		number, at = number+1, r.next
	}
	chains := map[string][]rule{}
	for at, i := range index {
		chains[chainAt(at)] = rules[i:] // each chain ends with a rule that returns, or with its policy
	}
	chains[chain.Name] = rules[index[forward]:index[policy]]
	return chain.evaluate(chains, packets)
}

func chainAt(offset int) string { return fmt.Sprint("at ", offset) }

func (l legacy) rule(table []byte, at int) xtRule {
	target := int(binary.NativeEndian.Uint16(table[at+l.ipSize+4:]))
	next := at + int(binary.NativeEndian.Uint16(table[at+l.ipSize+6:]))
	return xtRule{l, table[at:next], target, next}
}

// name returns the name of the target, which is empty for a verdict.
func (r xtRule) name() string { return unix.ByteSliceToString(r.blob[r.target+2:]) }

func (r xtRule) verdict() expr.Verdict {
	if r.name() != "" {
		return xtTarget(r.name())
	}
	// -NF_DROP - 1 and so on, XT_RETURN, or the offset of a chain.
	switch v := int(int32(binary.NativeEndian.Uint32(r.blob[r.target+xtHeader:]))); {
	case v == -5:
		return expr.Verdict{Kind: expr.VerdictReturn}
	case v < 0:
		return expr.Verdict{Kind: expr.VerdictKind(-v - 1)}
	case v == r.next: // a rule without target
		return pass
	case r.blob[r.flagsAt]&r.flagGoTo != 0:
		return expr.Verdict{Kind: expr.VerdictGoto, Chain: chainAt(v)}
	default:
		return expr.Verdict{Kind: expr.VerdictJump, Chain: chainAt(v)}
	}
}

// match compares addresses, devices and protocol, and then evaluates the matches.
func (r xtRule) match(p Packet) (truth, expr.Verdict) {
	// Flags IPT_INV_ of linux/netfilter_ipv4/ip_tables.h, in the order of the fields.
	const source, target, in, out, protocol, inFragment = 0x08, 0x10, 0x01, 0x02, 0x40, 0x20
	const fragment = 0x01 // IPT_F_FRAG: from the second fragment on
	n, inverted := r.addrSize, r.blob[r.flagsAt+1]
	matches := yes
	compare := func(b bits, at, mask int, flag byte) {
		same := make([]byte, len(b.value))
		want := certain(r.blob[at:at+len(same)]).masked(r.blob[mask:], same)
		matches = matches.and(b.masked(r.blob[mask:], same).equals(want.value).not(inverted&flag != 0))
	}
	compare(p.address(r.sourceAt, n), 0, 2*n, source)
	compare(p.address(r.sourceAt+n, n), n, 3*n, target)
	const size = unix.IFNAMSIZ
	compare(deviceName(p.In), 4*n, 4*n+2*size, in)
	compare(deviceName(p.Out), 4*n+size, 4*n+3*size, out)
	if want := binary.NativeEndian.Uint16(r.blob[4*n+4*size:]); want != 0 {
		matches = matches.and(p.meta(expr.MetaKeyL4PROTO).equals([]byte{byte(want)}).not(inverted&protocol != 0))
	}
	if n == 4 && r.blob[r.flagsAt]&fragment != 0 {
		matches = matches.and(no.not(inverted&inFragment != 0))
	}
	for at := r.header; at < r.target; {
		size := int(binary.NativeEndian.Uint16(r.blob[at:]))
		matches = matches.and(p.xtMatch(xtMatch(r.blob[at : at+size])))
		at += size
	}
	return matches, r.verdict()
}

// xtMatch decodes a match. Those that are supported are the same for both families.
func xtMatch(b []byte) *expr.Match {
	m := &expr.Match{Name: unix.ByteSliceToString(b[2:]), Rev: uint32(b[xtHeader-1])}
	m.Info, _ = xt.Unmarshal(m.Name, unix.NFPROTO_IPV6, m.Rev, b[xtHeader:])
	return m
}
