package doctor

import (
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

func TestForeignRouteThatStandsBy(t *testing.T) {
	w := newWard(t)
	w.route("10.244.2.0/24", "192.168.1.1", 3, 9999)
	w.look()
	w.finds("foreign-routes", OK)
}

func TestForwardRuleThatDropsAll(t *testing.T) {
	w := newWard(t)
	nft, err := nftables.New()
	w.must(err)
	table := nft.AddTable(&nftables.Table{Name: "fw", Family: nftables.TableFamilyINet})
	accept := nftables.ChainPolicyAccept
	c := nft.AddChain(&nftables.Chain{Name: "forward", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &accept})
	nft.AddRule(&nftables.Rule{Table: table, Chain: c, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}})
	w.must(nft.Flush())
	w.finds("forward-policy", Failure)
}

func TestForwardRuleThatRefusesAll(t *testing.T) {
	w := newWard(t)
	nft, err := nftables.New()
	w.must(err)
	table := nft.AddTable(&nftables.Table{Name: "firewalld", Family: nftables.TableFamilyINet})
	accept := nftables.ChainPolicyAccept
	c := nft.AddChain(&nftables.Chain{Name: "filter_FORWARD", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &accept})
	nft.AddRule(&nftables.Rule{Table: table, Chain: c, Exprs: []expr.Any{&expr.Reject{Type: 2, Code: 3}}})
	w.must(nft.Flush())
	w.finds("forward-policy", Failure)
}

func TestPluginThatMayNotRun(t *testing.T) {
	w := newWard(t)
	p := filepath.Join(w.BinDir, "bridge")
	b, err := os.ReadFile(p)
	w.must(err)
	w.must(os.Remove(p))
	w.must(os.WriteFile(p, b, 0o644))
	w.finds("cni-plugins", Failure)
}

func TestPluginOfAnotherMachine(t *testing.T) {
	w := newWard(t)
	p := filepath.Join(w.BinDir, "bridge")
	b, err := os.ReadFile(p)
	w.must(err)
	w.must(os.Remove(p))
	binary.LittleEndian.PutUint16(b[18:], uint16(elf.EM_S390))
	w.must(os.WriteFile(p, b, 0o755))
	w.finds("cni-plugins", Failure)
}
