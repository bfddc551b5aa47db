package dataplane

import (
	"encoding/binary"
	"fmt"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Constants of linux/netfilter/nf_tables.h that x/sys/unix lacks.
const (
	nftGetRule       = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE
	nftGetSet        = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETSET
	nftNewGeneration = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN
	nftGetGeneration = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN
)

// A setShape has the properties of a set that google/nftables leaves out or interprets.
type setShape struct {
	flags   uint32 // NFT_SET_*
	size    uint32 // the most elements, 0: no limit
	timeout bool   // elements expire
}

// shapes reads the properties of our table's sets, by name.
func (k *Kernel) shapes() (map[string]setShape, error) {
	all := map[string]setShape{}
	err := k.dumpTable(nftGetSet, func(attributes []byte) {
		all[unix.ByteSliceToString(attribute(attributes, unix.NFTA_SET_NAME))] = setShape{
			flags:   bigEndian(attribute(attributes, unix.NFTA_SET_FLAGS)),
			size:    bigEndian(attribute(attribute(attributes, unix.NFTA_SET_DESC), unix.NFTA_SET_DESC_SIZE)),
			timeout: attribute(attributes, unix.NFTA_SET_TIMEOUT) != nil,
		}
	})
	return all, err
}

// sameShapes reports whether the sets that the table needs have the properties of ours: no limits
// and no timeouts.
func sameShapes(m *topology.Masquerade, have map[string]setShape) bool {
	for _, f := range families {
		if m.Serves(f.is4) && (have[f.cluster] != (setShape{flags: unix.NFT_SET_INTERVAL}) || have[f.nodes] != (setShape{})) {
			return false
		}
	}
	return true
}

// expressions counts the expressions of our table's rules, by the rules' handles. google/nftables
// leaves out those that it does not support, so a rule with such a condition would count as ours.
func (k *Kernel) expressions() (map[uint64]int, error) {
	counts := map[uint64]int{}
	err := k.dumpTable(nftGetRule, func(attributes []byte) {
		n := 0
		eachAttribute(attribute(attributes, unix.NFTA_RULE_EXPRESSIONS), func(uint16, []byte) { n++ })
		if handle := attribute(attributes, unix.NFTA_RULE_HANDLE); len(handle) == 8 {
			counts[binary.BigEndian.Uint64(handle)] = n
		}
	})
	return counts, err
}

// nfgenmsg is the size of struct nfgenmsg, which precedes the attributes of netfilter's messages.
const nfgenmsg = 4

// dumpTable calls f with the attributes of each rule or set of our table. Attribute 1 of all of
// them is the table's name.
func (k *Kernel) dumpTable(ask uint16, f func(attributes []byte)) error {
	data := []byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}
	data = appendAttribute(data, unix.NFTA_TABLE_NAME, append([]byte(topology.Table), make([]byte, 4-len(topology.Table)%4)...))
	_, err := k.nfnetlink.read(request{kind: ask, flags: unix.NLM_F_DUMP, data: data}, func(_ uint16, data []byte) {
		f(data[min(len(data), nfgenmsg):])
	})
	if err != nil {
		return fmt.Errorf("dumping it: %w", err)
	}
	return nil
}

func bigEndian(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// generation returns the number of nftables' ruleset in this network namespace, which each
// transaction of any program increments.
func (k *Kernel) generation() (uint32, error) {
	generation := uint32(0)
	ask := request{kind: nftGetGeneration, data: []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0}}
	_, err := k.nfnetlink.read(ask, func(kind uint16, data []byte) {
		if kind == nftNewGeneration {
			generation = parseGeneration(data)
		}
	})
	if err != nil {
		return 0, fmt.Errorf("asking for the ruleset's generation: %w", withoutNFT(err))
	}
	return generation, nil
}

// parseGeneration parses struct nfgenmsg and its attributes. For a broken message it returns 0.
func parseGeneration(b []byte) uint32 {
	return bigEndian(attribute(b[min(len(b), nfgenmsg):], unix.NFTA_GEN_ID))
}

// whole repeats a read of several dumps until no transaction came between them, because they would
// belong to different rulesets. google/nftables ignores the kernel's flag for that
// (NLM_F_DUMP_INTR).
func whole(generation func() (uint32, error), read func() error) error {
	const tries = 10
	for range tries {
		before, err := generation()
		if err != nil {
			return err
		}
		errRead := read()
		after, err := generation()
		if err != nil {
			return err
		}
		if after == before {
			return errRead
		}
	}
	return fmt.Errorf("nftables: %w, %d times", rtnl.ErrDumpInterrupted, tries)
}
