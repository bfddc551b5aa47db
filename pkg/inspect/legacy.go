package inspect

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"unsafe"

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
