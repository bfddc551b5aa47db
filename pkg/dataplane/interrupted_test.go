package dataplane

import (
	"errors"
	"testing"

	"github.com/google/nftables"
	rtnl "github.com/vishvananda/netlink"
)

// A dump that a change interrupted is repeated until one is whole, a bounded number of times.
func TestInterruptedDumpIsRepeated(t *testing.T) {
	n := 0
	list, err := RetryDump(func() ([]int, error) {
		if n++; n < 4 {
			return []int{n}, rtnl.ErrDumpInterrupted
		}
		return []int{n, n}, nil
	})
	if err != nil || len(list) != 2 || n != 4 {
		t.Errorf("after %d dumps %v, %v", n, list, err)
	}
	if _, err := RetryDump(func() (int, error) { return 0, rtnl.ErrDumpInterrupted }); !errors.Is(err, rtnl.ErrDumpInterrupted) {
		t.Errorf("a dump that is never whole: %v", err)
	}
	refused := errors.New("refused")
	if _, err := RetryDump(func() (int, error) { return 0, refused }); !errors.Is(err, refused) {
		t.Errorf("a dump that is refused: %v", err)
	}
}

// Our table is read in several dumps. Any transaction between them, of another table too, repeats
// them.
func TestRulesetReadDuringATransactionIsReadAgain(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	other, err := nftables.New()
	m.must(err)
	reads := 0
	m.must(whole(m.generation, func() error {
		if reads++; reads < 3 {
			other.AddTable(&nftables.Table{Name: "other", Family: nftables.TableFamilyIPv4})
			other.AddChain(&nftables.Chain{Name: string(rune('a' + reads)), Table: &nftables.Table{Name: "other", Family: nftables.TableFamilyIPv4}})
			m.must(other.Flush())
		}
		return nil
	}))
	if reads != 3 {
		t.Errorf("read %d times, two of them interrupted", reads)
	}
	generation := uint32(0)
	always := func() (uint32, error) { generation++; return generation, nil }
	if err := whole(always, func() error { return nil }); !errors.Is(err, rtnl.ErrDumpInterrupted) {
		t.Errorf("a ruleset that is never the same: %v", err)
	}
}
