package inspect

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"unsafe"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// legacy is how to read the xtables of one family: the rules of iptables-legacy, which nftables
// does not show. Reading them needs no program, and no capability but CAP_NET_ADMIN.
type legacy struct {
	family, tables string
	socket, level  int
	// Of struct ipt_entry (linux/netfilter_ipv4/ip_tables.h, and ip6t_entry of ip6_tables.h): the
	// size of the part that matches addresses, up to the field nfcache, and of all before the matches.
	ipSize, header int

	flagGoTo byte // IPT_F_GOTO
	flagsAt  int  // offset of the flags
	addrSize int
	sourceAt int // offset of the source address in a packet
}

var legacies = []legacy{
	{"ip", "/proc/thread-self/net/ip_tables_names", unix.AF_INET, unix.SOL_IP, 84, 112, 2, 82, 4, 12},
	{"ip6", "/proc/thread-self/net/ip6_tables_names", unix.AF_INET6, unix.SOL_IPV6, 136, 168, 4, 131, 16, 8},
}

// Constants of linux/netfilter_ipv4/ip_tables.h and linux/netfilter.h, the same for IPv6.
const (
	getInfo     = 64 // IPT_SO_GET_INFO
	getEntries  = 65 // IPT_SO_GET_ENTRIES
	nameSize    = 32 // XT_TABLE_MAXNAMELEN
	hooks       = 5
	hookForward = 2  // NF_INET_FORWARD
	entriesAt   = 40 // offset of the rules in struct ipt_get_entries
)

// xtInfo is struct ipt_getinfo.
type xtInfo struct {
	Name                 [nameSize]byte
	ValidHooks           uint32
	HookEntry, Underflow [hooks]uint32
	Entries, Size        uint32
}

// LegacyForwardChains returns the chains FORWARD of iptables-legacy and ip6tables-legacy. A table
// that does not exist is not read, because reading would make the kernel create it.
func (*Inspector) LegacyForwardChains(packets []Packet) ([]Chain, error) {
	var found []Chain
	for _, l := range legacies {
		names, err := os.ReadFile(l.tables)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("reading the tables of iptables: %w", err)
		}
		if !slices.Contains(strings.Fields(string(names)), "filter") {
			continue
		}
		chain, err := l.forward(packets)
		if err != nil {
			return nil, fmt.Errorf("reading the table filter of iptables: %w", err)
		}
		found = append(found, chain)
	}
	return found, nil
}

func (l legacy) forward(packets []Packet) (Chain, error) {
	fd, err := unix.Socket(l.socket, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Chain{}, err
	}
	defer unix.Close(fd)
	var chain Chain
	for range 3 { // the kernel returns EAGAIN if the table changed, and kube-proxy changes it often
		if chain, err = l.read(fd, packets); !errors.Is(err, unix.EAGAIN) {
			break
		}
	}
	return chain, err
}

func (l legacy) read(fd int, packets []Packet) (Chain, error) {
	info := xtInfo{}
	copy(info.Name[:], "filter")
	if err := getsockopt(fd, l.level, getInfo, unsafe.Pointer(&info), binary.Size(info)); err != nil {
		return Chain{}, err
	}
	table := make([]byte, entriesAt+int(info.Size))
	copy(table, "filter")
	binary.NativeEndian.PutUint32(table[nameSize:], info.Size)
	if err := getsockopt(fd, l.level, getEntries, unsafe.Pointer(&table[0]), len(table)); err != nil {
		return Chain{}, err
	}
	return l.parse(info, table[entriesAt:], packets), nil
}

// getsockopt reads into a buffer that begins with the request.
func getsockopt(fd, level, option int, buffer unsafe.Pointer, size int) error {
	length := uint32(size)
	if _, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option), uintptr(buffer), uintptr(unsafe.Pointer(&length)), 0); errno != 0 {
		return errno
	}
	return nil
}

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
