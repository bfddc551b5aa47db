package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// settleTime is how long an observer goes on after the config has appeared, for events that come too late.
const settleTime = 500 * time.Millisecond

// The CNI config makes a node Ready: it may appear only when pods would work.
func TestConfigAppearsLast(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, limit)
	node := f.node(t)
	testutil.Must(t, node.Register(ctx))
	seen := watchStart(t, node, nodelab.AgentOptions{})
	t.Logf("in the order of the kernel's notices: %s", seen)

	config := slices.IndexFunc(seen, func(e occurrence) bool { return e.what == configAppeared })
	if config < 0 || seen[config].detail != "10-plainroute.conflist" {
		t.Fatal("no CNI config was renamed into place")
	}
	for _, what := range []happening{routeAdded, tableAdded, ruleAdded} {
		if !slices.ContainsFunc(seen[:config], func(e occurrence) bool { return e.what == what }) {
			t.Errorf("before the CNI config no %s was seen", what)
		}
	}
	for _, late := range seen[config+1:] {
		if late.what != configAppeared {
			t.Errorf("after the CNI config: %s", late)
		}
	}
	routes := 0
	for _, e := range seen[:config] {
		if e.what == routeAdded {
			routes++
		}
	}
	if want := len(subnetsOf(append(f.nodes, node)...)); routes < want {
		t.Errorf("%d routes were added before the CNI config; want one to each of %d subnets", routes, want)
	}
}

// watchStart starts the node's agent while an observer watches it, and returns the observer's events.
func watchStart(t *testing.T, node *nodelab.Node, options nodelab.AgentOptions) occurrences {
	t.Helper()
	w, err := newObserver(node)
	testutil.Must(t, err)
	defer w.close()
	testutil.Must(t, node.StartAgent(options))
	seen, err := w.watch(testutil.Within(t, limit), settleTime)
	testutil.Must(t, err)
	testutil.Must(t, node.WaitReady(testutil.Within(t, limit)))
	return seen
}

// The config follows from a node's subnets, and is a symlink into the folder that a reboot empties.
func TestConfigContent(t *testing.T) {
	f := setup(t)
	node := f.nodes[0]
	path := filepath.Join(node.ConfDir, "10-plainroute.conflist")
	target, err := os.Readlink(path)
	testutil.Must(t, err)
	if !filepath.IsAbs(target) {
		target = filepath.Join(node.ConfDir, target)
	}
	if inside, err := filepath.Rel(node.RunDir, target); err != nil || !filepath.IsLocal(inside) {
		t.Errorf("%s points to %s; want a file below %s", path, target, node.RunDir)
	}
	entries, err := os.ReadDir(node.ConfDir)
	testutil.Must(t, err)
	if len(entries) != 1 {
		t.Errorf("the CNI folder holds %v; want the config alone", entries)
	}
	content, err := os.ReadFile(path)
	testutil.Must(t, err)
	if !json.Valid(content) {
		t.Errorf("the CNI config is no JSON:\n%s", content)
	}
	list, err := node.CNIConfig()
	testutil.Must(t, err)
	if list.Name != "plainroute" || len(list.Plugins) != 2 || list.Plugins[0].Network.Type != "bridge" {
		t.Errorf("the CNI config is not of the shape that the design gives:\n%s", content)
	}
}
