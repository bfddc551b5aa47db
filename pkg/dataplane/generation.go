package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Of linux/netfilter/nf_tables.h, which x/sys/unix leaves out in part.
const nftGetGeneration = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN

// generation returns the number of nftables' ruleset, which each transaction of
// anybody in this network namespace raises.
func (k *Kernel) generation() (uint32, error) {
	answers, err := k.ruleset.Execute(netlink.Message{
		Header: netlink.Header{Type: nftGetGeneration, Flags: netlink.Request},
		Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0}, // struct nfgenmsg
	})
	if err != nil {
		return 0, fmt.Errorf("asking for the ruleset's generation: %w", err)
	}
	for _, m := range answers {
		const header = 4
		if len(m.Data) < header {
			continue
		}
		attrs, err := netlink.NewAttributeDecoder(m.Data[header:])
		if err != nil {
			return 0, err
		}
		attrs.ByteOrder = binary.BigEndian
		for attrs.Next() {
			if attrs.Type() == unix.NFTA_GEN_ID {
				return attrs.Uint32(), attrs.Err()
			}
		}
	}
	return 0, errors.New("asking for the ruleset's generation: no answer")
}

// whole repeats a read in several dumps until no transaction came between them, for
// what they gave would belong to two rulesets. google/nftables drops the kernel's own
// mark of that (NLM_F_DUMP_INTR).
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
