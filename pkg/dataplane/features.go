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
	nftNewGeneration = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN
	nftGetGeneration = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN
)

// nfgenmsg is the size of struct nfgenmsg, which precedes the attributes of netfilter's messages.
const nfgenmsg = 4

// expressions counts the expressions of our table's rules, by the rules' handles. google/nftables
// leaves out those that it does not support, so a rule with such a condition would count as ours.
func (k *Kernel) expressions() (map[uint64]int, error) {
	counts := map[uint64]int{}
	ask := []byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}
	ask = appendAttribute(ask, unix.NFTA_RULE_TABLE, append([]byte(topology.Table), make([]byte, 4-len(topology.Table)%4)...))
	_, err := k.nfnetlink.read(request{kind: nftGetRule, flags: unix.NLM_F_DUMP, data: ask}, func(_ uint16, data []byte) {
		n, attributes := 0, data[min(len(data), nfgenmsg):]
		eachAttribute(attribute(attributes, unix.NFTA_RULE_EXPRESSIONS), func(uint16, []byte) { n++ })
		if handle := attribute(attributes, unix.NFTA_RULE_HANDLE); len(handle) == 8 {
			counts[binary.BigEndian.Uint64(handle)] = n
		}
	})
	if err != nil {
		return nil, fmt.Errorf("dumping its rules: %w", err)
	}
	return counts, nil
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
