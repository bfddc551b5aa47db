package doctor

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/test/testutil"
)

func TestForeignRouteOfLowerPriority(t *testing.T) {
	w := newTestbed(t)
	w.route("10.244.2.0/24", "192.168.1.1", 3, 9999)
	w.look()
	w.finds("foreign-routes", problem.None)
}

func TestForwardRuleThatDropsAll(t *testing.T) {
	w := newTestbed(t)
	nft, err := nftables.New()
	w.must(err)
	table := nft.AddTable(&nftables.Table{Name: "fw", Family: nftables.TableFamilyINet})
	accept := nftables.ChainPolicyAccept
	c := nft.AddChain(&nftables.Chain{Name: "forward", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &accept})
	nft.AddRule(&nftables.Rule{Table: table, Chain: c, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}})
	w.must(nft.Flush())
	w.finds("forward-policy", problem.Error)
}

func TestForwardRuleThatRefusesAll(t *testing.T) {
	w := newTestbed(t)
	nft, err := nftables.New()
	w.must(err)
	table := nft.AddTable(&nftables.Table{Name: "firewalld", Family: nftables.TableFamilyINet})
	accept := nftables.ChainPolicyAccept
	c := nft.AddChain(&nftables.Chain{Name: "filter_FORWARD", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &accept})
	nft.AddRule(&nftables.Rule{Table: table, Chain: c, Exprs: []expr.Any{&expr.Reject{Type: 2, Code: 3}}})
	w.must(nft.Flush())
	w.finds("forward-policy", problem.Error)
}

func TestPluginThatMayNotRun(t *testing.T) {
	w := newTestbed(t)
	p := filepath.Join(w.BinDir, "bridge")
	b, err := os.ReadFile(p)
	w.must(err)
	w.must(os.Remove(p))
	w.must(os.WriteFile(p, b, 0o644))
	w.finds("cni-plugins", problem.Error)
}

func TestPluginOfAnotherMachine(t *testing.T) {
	w := newTestbed(t)
	p := filepath.Join(w.BinDir, "bridge")
	b, err := os.ReadFile(p)
	w.must(err)
	w.must(os.Remove(p))
	binary.LittleEndian.PutUint16(b[18:], uint16(elf.EM_S390))
	w.must(os.WriteFile(p, b, 0o755))
	w.finds("cni-plugins", problem.Error)
}

// A plugin's identity is read from its build info: another plugin of the image under its name is
// not the stock plugin.
func TestForeignAndOldPlugins(t *testing.T) {
	w := newTestbed(t)
	stock := testutil.NeedPlugins(t)
	bridge, err := os.ReadFile(filepath.Join(stock, "bridge"))
	w.must(err)
	w.Offered = stock
	at := filepath.Join(w.BinDir, "bridge")
	place := func(content []byte) {
		w.must(os.RemoveAll(at))
		w.must(os.WriteFile(at, content, 0o755))
	}
	place(bridge)
	w.finds("cni-plugins", problem.None)

	const module = "github.com/containernetworking/plugins\tv"
	if !bytes.Contains(bridge, []byte(module+"1.")) {
		t.Fatal("the stock bridge is no longer of version 1")
	}
	old := bytes.ReplaceAll(bridge, []byte(module+"1."), []byte(module+"0."))
	place(old)
	if f := w.finds("cni-plugins", problem.Warning); !strings.Contains(f.Evidence, "bridge is v0.") || !strings.Contains(f.Evidence, "the image's is v1.") || !strings.Contains(f.Remediation, "installCNI") {
		t.Errorf("found %+v", f)
	}
	w.Offered = t.TempDir() // outside of the image there are none
	w.finds("cni-plugins", problem.None)

	loopback, err := os.ReadFile(filepath.Join(stock, "loopback"))
	w.must(err)
	place(loopback)
	if f := w.finds("cni-plugins", problem.Warning); !strings.Contains(f.Evidence, "bridge: not a stock plugin") {
		t.Errorf("found %+v", f)
	}
	place(bridge[:len(bridge)/2])
	w.finds("cni-plugins", problem.Error)
	// Older linkers write the sections' names in front of the code, so the header is whole.
	half := slices.Clone(bridge[:len(bridge)/2])
	clear(half[40:48]) // e_shoff of elf(5)
	clear(half[60:64]) // e_shnum and e_shstrndx
	place(half)
	if f := w.finds("cni-plugins", problem.Error); !strings.Contains(f.Evidence, "its end is missing") {
		t.Errorf("found %+v", f)
	}
}
