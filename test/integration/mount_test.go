package integration

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/plainroute/plainroute/test/cluster"
)

// Whoever removes a folder on the host leaves the agent's container with a mount of nothing, in which no file can be made
// any more, though the folder be made anew. Only a new container sees that one: the agent says so and ends, its routes
// and pods stay as they are, and the next agent writes the config.
func TestMountedFolderRemoved(t *testing.T) {
	f := setup(t)
	ctx := within(t, limit)
	for name, folder := range map[string]func(*cluster.Node) string{
		"run folder": func(n *cluster.Node) string { return n.RunDir },
		"CNI folder": func(n *cluster.Node) string { return n.ConfDir },
	} {
		t.Run(name, func(t *testing.T) {
			node := f.node(t)
			must(t, node.Register(ctx))
			must(t, node.StartAgent(cluster.AgentOptions{Confined: true}))
			must(t, node.WaitReady(ctx))
			must(t, node.AwaitRoute(ctx, subnetsOf(f.nodes...)...))
			watch, err := node.WatchRoutes()
			must(t, err)
			defer watch.Close()

			gone := folder(node) + ".gone" // the agent is quick to write the first file again
			must(t, os.Rename(folder(node), gone))
			must(t, os.RemoveAll(gone))
			began := time.Now()
			err = node.AwaitAgentEnd(within(t, 10*time.Second))
			t.Logf("the agent ended after %s: %v", time.Since(began), err)
			if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || !exit.Exited() {
				t.Fatalf("%v; want an end with an error\n%s", err, node.LogTail(10))
			}
			eventually(t, "the log says why", func() bool { return logSays(t, node, folder(node), "removed") })
			must(t, node.StartAgent(cluster.AgentOptions{Confined: true}))
			must(t, node.WaitReady(ctx))
			_, err = node.CNIConfig()
			must(t, err)
			stays(t, watch)
		})
	}
}

// logSays tells whether a line of the agent's log has all of the words.
func logSays(t *testing.T, node *cluster.Node, words ...string) bool {
	t.Helper()
	content, err := os.ReadFile(node.LogFile())
	must(t, err)
	return slices.ContainsFunc(strings.Split(string(content), "\n"), func(line string) bool {
		return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(line, word) })
	})
}
