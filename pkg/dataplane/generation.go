package dataplane

import (
	"fmt"

	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Constants of linux/netfilter/nf_tables.h that x/sys/unix lacks.
const (
	nftNewGeneration = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN
	nftGetGeneration = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN
)

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
func parseGeneration(b []byte) (generation uint32) {
	eachAttribute(b[min(len(b), nfgenmsg):], func(kind uint16, value []byte) {
		if kind == unix.NFTA_GEN_ID {
			generation = bigEndian(value)
		}
	})
	return generation
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
