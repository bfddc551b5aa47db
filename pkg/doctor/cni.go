package doctor

import (
	"context"
	"debug/elf"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/plugins"
	"github.com/plainroute/plainroute/pkg/topology"
)

// cniConfigs looks for those that a container runtime takes before ours.
func cniConfigs(_ context.Context, p *Patient) []Finding {
	before := p.Store.Before()
	if len(before) == 0 {
		return nil
	}
	return []Finding{Fail("the container runtime attaches pods by another CNI config than ours", fmt.Sprintf("in %s, before %s: %s", p.Store.ConfDir, topology.Conflist, strings.Join(before, ", ")),
		"if that network is not wanted: rm "+filepath.Join(p.Store.ConfDir, before[0])+", and make the pods anew that it attached")}
}

// cniPlugins looks whether those that our config calls are there and can be run.
func cniPlugins(_ context.Context, p *Patient) []Finding {
	const cure = "let the init container install-cni put them there (the chart's installCNI.enabled), or install the stock CNI plugins"
	missing, err := plugins.Missing(p.BinDir, cni.RequiredBy(p.State.CNI))
	if err != nil {
		return Skip(err.Error(), "mount the plugins' folder, or say where it is: --cni-bin-dir")
	}
	var found []Finding
	if len(missing) > 0 {
		found = append(found, Fail("no pod can be attached: CNI plugins are missing", fmt.Sprintf("not in %s: %s", p.BinDir, strings.Join(missing, ", ")), cure))
	}
	for _, name := range cni.RequiredBy(p.State.CNI) {
		path := filepath.Join(p.BinDir, name)
		if program, err := elf.Open(path); err == nil {
			_ = program.Close()
		} else if len(missing) == 0 {
			found = append(found, Fail("a CNI plugin is no program", err.Error(), cure))
		}
	}
	return found
}
