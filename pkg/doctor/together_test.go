package doctor

import (
	"fmt"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sync/errgroup"

	"github.com/plainroute/plainroute/pkg/inspect"
)

// Checks run at the same time, and none reads the answer to another's nftables request.
func TestChecksAskNFTablesTogether(t *testing.T) {
	w := newTestbed(t)
	nft, err := nftables.New()
	w.must(err)
	table := nft.AddTable(&nftables.Table{Name: "fw", Family: nftables.TableFamilyINet})
	const chains, rules, times = 4, 20, 100
	for i := range chains {
		c := nft.AddChain(&nftables.Chain{Name: fmt.Sprintf("forward%d", i), Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
		for range rules {
			nft.AddRule(&nftables.Rule{Table: table, Chain: c, Exprs: []expr.Any{&expr.Counter{}}})
		}
	}
	w.must(nft.Flush())
	packets := []inspect.Packet{{In: w.Bridge, Out: "eth0", From: anywhere(true), To: anywhere(true)}}
	var both errgroup.Group
	both.Go(func() error {
		for range times {
			found, err := w.Kernel.ForwardChains(packets)
			if err != nil {
				return err
			}
			for _, c := range found {
				if c.Rules != rules {
					return fmt.Errorf("%s", c)
				}
			}
		}
		return nil
	})
	both.Go(func() error {
		for range times {
			if names, err := w.Kernel.Chains(); err != nil || len(names) != chains {
				return fmt.Errorf("%q, %w", names, err)
			}
		}
		return nil
	})
	if err := both.Wait(); err != nil {
		t.Error(err)
	}
}
