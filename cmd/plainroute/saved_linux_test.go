package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-logr/logr/funcr"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/nodes"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/test/apiserver"
	"github.com/plainroute/plainroute/test/testutil"
)

// A cluster is known by the content of its CA, wherever that is; without one by the API server's address.
func TestIdentity(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ca.crt")
	testutil.Must(t, os.WriteFile(file, []byte("ca"), 0o600))
	of := func(config *rest.Config, selector labels.Selector) nodes.Identity {
		t.Helper()
		f := &agentFlags{}
		f.ignoreNodesSelector = selector
		id, err := f.identityOf(config, "node1")
		testutil.Must(t, err)
		return id
	}
	inFile := of(&rest.Config{Host: "a", TLSClientConfig: rest.TLSClientConfig{CAFile: file}}, nil)
	inline := of(&rest.Config{Host: "b", TLSClientConfig: rest.TLSClientConfig{CAData: []byte("ca")}}, nil)
	if inFile != inline || inFile.Cluster == "" || inFile.Node != "node1" || !strings.HasPrefix(inFile.Version, version) {
		t.Errorf("one CA, and %+v is not %+v", inFile, inline)
	}
	for what, other := range map[string]nodes.Identity{
		"another CA": of(&rest.Config{Host: "a", TLSClientConfig: rest.TLSClientConfig{CAData: []byte("other")}}, nil),
		"no CA":      of(&rest.Config{Host: "a"}, nil),
		"a selector": of(&rest.Config{TLSClientConfig: rest.TLSClientConfig{CAData: []byte("ca")}}, labels.Set{"a": "b"}.AsSelector()),
	} {
		if other == inline {
			t.Errorf("%s leads to the same identity %+v", what, other)
		}
	}
	if of(&rest.Config{Host: "a"}, nil) == of(&rest.Config{Host: "b"}, nil) {
		t.Error("two servers without a CA have one identity")
	}
	missing := &rest.Config{TLSClientConfig: rest.TLSClientConfig{CAFile: file + ".missing"}}
	if _, err := (&agentFlags{}).identityOf(missing, ""); err == nil {
		t.Error("a missing CA returns no error")
	}
}

// newSavedNodes returns those of a run with a fake API server, which has answered, and their log.
func newSavedNodes(t *testing.T, runDir string) (s *savedNodes, log *strings.Builder) {
	t.Helper()
	source, err := nodes.New(apiserver.NewFake(t, apiserver.Node1()).Config, nil)
	testutil.Must(t, err)
	log = &strings.Builder{}
	logger := funcr.New(func(_, args string) { log.WriteString(args + "\n") }, funcr.Options{})
	latest := &status.Latest{}
	latest.Publish(&status.Result{Known: true})
	return &savedNodes{store: cni.Store{RunDir: runDir}, source: source, latest: latest, log: logger, identity: nodes.Identity{Version: "1"}}, log
}

func TestSavedNodes(t *testing.T) {
	runDir := t.TempDir()
	first, log := newSavedNodes(t, runDir)
	first.restore()
	first.save()
	if _, err := os.Stat(filepath.Join(runDir, "nodes")); !os.IsNotExist(err) || log.Len() > 0 {
		t.Errorf("without Nodes: %v, and the log is %q", err, log)
	}
	go first.source.Run(t.Context(), func() {})
	testutil.AwaitTrue(t, "the list of Nodes", func() bool { return first.source.Health().Synced })
	first.save()

	second, log := newSavedNodes(t, runDir)
	second.restore()
	if got := len(second.source.View().Nodes); got != 1 || !strings.Contains(log.String(), "Restored the saved Nodes") {
		t.Errorf("restored are %d Nodes, and the log is %q", got, log)
	}
	other, log := newSavedNodes(t, runDir)
	other.identity.Cluster = "another"
	other.restore()
	if got := len(other.source.View().Nodes); got != 0 || strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), "of another cluster") {
		t.Errorf("of another cluster %d Nodes are restored, and the log is %q", got, log)
	}
}

// A folder that can't be written to costs a line in the log, and the next attempt is made.
func TestNodesThatCantBeSaved(t *testing.T) {
	runDir := filepath.Join(t.TempDir(), "missing")
	s, log := newSavedNodes(t, runDir)
	go s.source.Run(t.Context(), func() {})
	testutil.AwaitTrue(t, "the list of Nodes", func() bool { return s.source.Health().Synced })
	s.save()
	if strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), "Failed to save the Nodes") {
		t.Errorf("the log is %q", log)
	}
	testutil.Must(t, os.Mkdir(runDir, 0o700))
	s.save()
	if _, err := os.Stat(filepath.Join(runDir, "nodes")); err != nil {
		t.Error(err)
	}
}
