package integration

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// After the removal of a folder on the host, the agent's container has a mount of the removed
// folder, in which no file can be made, even once the folder exists again. Only a new container
// sees the new one: the agent logs this and ends, its routes and pods stay as they are, and the
// next agent writes the config.
func TestMountedFolderRemoved(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, limit)
	for name, folder := range map[string]func(*nodelab.Node) string{
		"run folder": func(n *nodelab.Node) string { return n.RunDir },
		"CNI folder": func(n *nodelab.Node) string { return n.ConfDir },
	} {
		t.Run(name, func(t *testing.T) {
			node := f.node(t)
			testutil.Must(t, node.Register(ctx))
			testutil.Must(t, node.StartAgent(nodelab.AgentOptions{Confined: true}))
			testutil.Must(t, node.WaitReady(ctx))
			testutil.Must(t, node.AwaitRoute(ctx, subnetsOf(f.nodes...)...))
			watch, err := node.WatchRoutes()
			testutil.Must(t, err)
			defer watch.Close()

			gone := folder(node) + ".gone" // the agent is quick to write the first file again
			testutil.Must(t, os.Rename(folder(node), gone))
			testutil.Must(t, os.RemoveAll(gone))
			began := time.Now()
			err = node.AwaitAgentEnd(testutil.Within(t, 10*time.Second))
			t.Logf("the agent ended after %s: %v", time.Since(began), err)
			if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || !exit.Exited() {
				t.Fatalf("%v; want an end with an error\n%s", err, node.LogTail(10))
			}
			testutil.AwaitTrue(t, "the log has the reason", func() bool { return logHas(t, node, folder(node), "removed") })
			testutil.Must(t, node.StartAgent(nodelab.AgentOptions{Confined: true}))
			testutil.Must(t, node.WaitReady(ctx))
			_, err = node.CNIConfig()
			testutil.Must(t, err)
			stays(t, watch)
		})
	}
}

// logHas reports whether a line of the agent's log has all of the words.
func logHas(t *testing.T, node *nodelab.Node, words ...string) bool {
	t.Helper()
	content, err := os.ReadFile(node.LogFile())
	testutil.Must(t, err)
	return slices.ContainsFunc(strings.Split(string(content), "\n"), func(line string) bool {
		return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(line, word) })
	})
}
