package dataplane

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// xtHeader is the size of what a match or a target begins with: its size, its name and
// its revision (struct xt_entry_match of linux/netfilter/x_tables.h).
const xtHeader = 32

// xtRule is a rule as the kernel has it.
type xtRule struct {
	legacy
	blob   []byte // the rule, all of it
	target int    // where its target begins
	next   int    // where the next rule begins, in the table
}

// parse reads the rules of a table, and what becomes of packets in its chain FORWARD.
func (l legacy) parse(info xtInfo, table []byte, packets []Packet) (Chain, error) {
	chain := Chain{Family: l.family, Table: "filter", Name: "FORWARD", Legacy: true}
	forward, policy := int(info.HookEntry[hookForward]), int(info.Underflow[hookForward])
	var rules []rule
	index := map[int]int{} // of a rule, by where it begins
	name, number := "", 0
	for at := 0; at < len(table); {
		r, err := l.rule(table, at)
		if err != nil {
			return Chain{}, err
		}
		if r.name() == "ERROR" { // the head of a chain of the user's
			name, number = cString(r.blob[r.target+xtHeader:]), 0
		}
		if at == forward {
			name, number = chain.Name, 1
		}
		if at == policy {
			chain.Drops = r.verdict().kind == drop
		}
		index[at] = len(rules)
		rules = append(rules, rule{fmt.Sprintf("rule %d of %s", number, name), r.judge})
		number, at = number+1, r.next
	}
	chains := map[string][]rule{}
	for at, i := range index {
		chains[chainAt(at)] = rules[i:] // each ends with a rule that returns, or is the policy
	}
	chains[chain.Name] = rules[index[forward]:index[policy]]
	chain.Rules = len(chains[chain.Name])
	for _, p := range packets {
		chain.Fates = append(chain.Fates, chain.fate(chains, chain.Name, p))
	}
	return chain, nil
}

func chainAt(offset int) string { return fmt.Sprint("at ", offset) }

func (l legacy) rule(table []byte, at int) (xtRule, error) {
	if at+l.header > len(table) {
		return xtRule{}, errors.New("it ends in the midst of a rule")
	}
	target := int(binary.NativeEndian.Uint16(table[at+l.ipSize+4:]))
	size := int(binary.NativeEndian.Uint16(table[at+l.ipSize+6:]))
	if target < l.header || size < target+xtHeader || at+size > len(table) {
		return xtRule{}, errors.New("its rules are not where they should be")
	}
	return xtRule{l, table[at : at+size], target, at + size}, nil
}

// name is that of the target; a verdict has none.
func (r xtRule) name() string { return cString(r.blob[r.target+2 : r.target+xtHeader-1]) }

func (r xtRule) verdict() verdict {
	if r.name() != "" {
		return xtTarget(r.name())
	}
	if len(r.blob) < r.target+xtHeader+4 {
		return verdict{kind: dunno}
	}
	// They are -NF_DROP - 1 and so on, XT_RETURN, or where the chain begins.
	switch v := int32(binary.NativeEndian.Uint32(r.blob[r.target+xtHeader:])); {
	case v == -1:
		return verdict{kind: drop}
	case v == -2:
		return verdict{kind: accept}
	case v == -5:
		return verdict{kind: giveBack}
	case v < 0:
		return verdict{kind: dunno}
	case int(v) == r.next: // a rule without target
		return verdict{}
	case r.blob[r.flagsAt]&r.flagGoTo != 0:
		return verdict{goTo, chainAt(int(v))}
	default:
		return verdict{jump, chainAt(int(v))}
	}
}

// judge compares addresses, devices and protocol, and then asks the matches.
func (r xtRule) judge(p Packet) (truth, verdict) {
	// Flags IPT_INV_ of linux/netfilter_ipv4/ip_tables.h, in the order of the fields.
	const source, target, in, out, protocol, inFragment = 0x08, 0x10, 0x01, 0x02, 0x40, 0x20
	const fragment = 0x01 // IPT_F_FRAG: from the second fragment on
	n, inverted := r.addrSize, r.blob[r.flagsAt+1]
	fits := yes
	ask := func(b bits, at, mask int, flag byte) {
		want := sure(r.blob[at : at+len(b.value)]).masked(r.blob[mask:])
		fits = fits.and(b.masked(r.blob[mask:]).equals(want.value).not(inverted&flag != 0))
	}
	ask(p.address(r.sourceAt, n), 0, 2*n, source)
	ask(p.address(r.sourceAt+n, n), n, 3*n, target)
	const size = unix.IFNAMSIZ
	ask(deviceName(p.In), 4*n, 4*n+2*size, in)
	ask(deviceName(p.Out), 4*n+size, 4*n+3*size, out)
	if want := binary.NativeEndian.Uint16(r.blob[4*n+4*size:]); want != 0 {
		fits = fits.and(p.meta(expr.MetaKeyL4PROTO).equals([]byte{byte(want)}).not(inverted&protocol != 0))
	}
	if n == 4 && r.blob[r.flagsAt]&fragment != 0 {
		fits = fits.and(no.not(inverted&inFragment != 0))
	}
	for at := r.header; at < r.target; {
		match, size := r.match(at)
		fits = fits.and(p.xtMatch(match))
		at += size
	}
	return fits, r.verdict()
}

// match reads one, and gives its size.
func (r xtRule) match(at int) (*expr.Match, int) {
	size := int(binary.NativeEndian.Uint16(r.blob[at:]))
	if size < xtHeader || at+size > r.target {
		return &expr.Match{}, r.target - at // one that nobody knows
	}
	family := xt.TableFamily(unix.NFPROTO_IPV4)
	if r.addrSize == 16 {
		family = unix.NFPROTO_IPV6
	}
	m := &expr.Match{Name: cString(r.blob[at+2 : at+xtHeader-1]), Rev: uint32(r.blob[at+xtHeader-1])}
	if info, err := xt.Unmarshal(m.Name, family, m.Rev, r.blob[at+xtHeader:at+size]); err == nil {
		m.Info = info
	}
	return m, size
}

func cString(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}
