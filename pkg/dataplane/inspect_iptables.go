package dataplane

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// legacy is where the xtables of one family are asked: those that iptables-legacy
// writes, which nftables does not show. No program is needed for it, and no right but
// CAP_NET_ADMIN.
type legacy struct {
	family, tables string
	socket, level  int
	// ipSize is that of the part of a rule that matches addresses, up to its field
	// nfcache (struct ipt_entry of linux/netfilter_ipv4/ip_tables.h, ip6t_entry of
	// linux/netfilter_ipv6/ip6_tables.h).
	ipSize int
}

var legacies = []legacy{
	{"ip", "/proc/thread-self/net/ip_tables_names", unix.AF_INET, unix.SOL_IP, 84},
	{"ip6", "/proc/thread-self/net/ip6_tables_names", unix.AF_INET6, unix.SOL_IPV6, 136},
}

// Of linux/netfilter_ipv4/ip_tables.h and linux/netfilter.h; IPv6 has the same.
const (
	getInfo      = 64 // IPT_SO_GET_INFO
	getEntries   = 65 // IPT_SO_GET_ENTRIES
	nameSize     = 32 // XT_TABLE_MAXNAMELEN
	hooks        = 5
	hookForward  = 2  // NF_INET_FORWARD
	entriesAt    = 40 // of struct ipt_get_entries, where the rules begin
	targetHeader = 32 // struct xt_entry_target, before a standard target's verdict
	verdictDrop  = -1 // -NF_DROP - 1
)

// xtInfo is struct ipt_getinfo.
type xtInfo struct {
	Name                 [nameSize]byte
	ValidHooks           uint32
	HookEntry, Underflow [hooks]uint32
	Entries, Size        uint32
}

// LegacyForwardChains gives the chains FORWARD of iptables-legacy and its like for
// IPv6, where there are any. A table that is not there is not asked for: the kernel
// would make it.
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
		chain, err := l.forward()
		if err != nil {
			return nil, fmt.Errorf("reading the table filter of iptables: %w", err)
		}
		for _, p := range packets {
			chain.Fates = append(chain.Fates, chain.legacyFate(p))
		}
		found = append(found, chain)
	}
	return found, nil
}

// legacyFate goes by the policy: the rules are not read.
func (c Chain) legacyFate(p Packet) Fate {
	if !c.Drops || (c.Family == "ip") != p.From.Addr().Is4() {
		return Fate{Accepted: true}
	}
	return Fate{Accepted: c.Rules > 0, Dropped: true, By: "its policy", Doubt: "any of its rules"}
}

func (l legacy) forward() (Chain, error) {
	fd, err := unix.Socket(l.socket, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Chain{}, err
	}
	defer unix.Close(fd)
	for range 3 { // until nobody changes it in between
		var chain Chain
		if chain, err = l.read(fd); !errors.Is(err, unix.EAGAIN) {
			return chain, err
		}
	}
	return Chain{}, err
}

func (l legacy) read(fd int) (Chain, error) {
	info := xtInfo{}
	copy(info.Name[:], "filter")
	asked := make([]byte, binary.Size(info))
	copy(asked, "filter")
	if err := getsockopt(fd, l.level, getInfo, asked); err != nil {
		return Chain{}, err
	}
	if err := binary.Read(bytes.NewReader(asked), binary.NativeEndian, &info); err != nil {
		return Chain{}, err
	}
	table := make([]byte, entriesAt+int(info.Size))
	copy(table, "filter")
	binary.NativeEndian.PutUint32(table[nameSize:], info.Size)
	if err := getsockopt(fd, l.level, getEntries, table); err != nil {
		return Chain{}, err
	}
	return l.parse(info, table[entriesAt:])
}

// parse goes from the first rule of the chain to the one that is its policy.
func (l legacy) parse(info xtInfo, rules []byte) (Chain, error) {
	chain := Chain{Family: l.family, Table: "filter", Name: "FORWARD", Legacy: true}
	at, policy := int(info.HookEntry[hookForward]), int(info.Underflow[hookForward])
	for ; at != policy; chain.Rules++ {
		next, err := l.offset(rules, at, 2)
		if err != nil {
			return Chain{}, err
		}
		if at += next; next == 0 || at > policy {
			return Chain{}, errors.New("its rules are not where they should be")
		}
	}
	target, err := l.offset(rules, at, 0)
	if err != nil {
		return Chain{}, err
	}
	if at += target + targetHeader; at+4 > len(rules) {
		return Chain{}, errors.New("it ends in the midst of a rule")
	}
	chain.Drops = int32(binary.NativeEndian.Uint32(rules[at:])) == verdictDrop
	return chain, nil
}

// offset reads target_offset (0) or next_offset (2) of the rule that begins there.
func (l legacy) offset(rules []byte, at, which int) (int, error) {
	at += l.ipSize + 4 + which
	if at < 0 || at+2 > len(rules) {
		return 0, errors.New("it ends in the midst of a rule")
	}
	return int(binary.NativeEndian.Uint16(rules[at:])), nil
}

// getsockopt reads into a buffer that says what is asked.
func getsockopt(fd, level, option int, buffer []byte) error {
	size := uint32(len(buffer))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&buffer[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
