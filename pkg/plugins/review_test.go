package plugins

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/plainroute/plainroute/test/testutil"
)

// A review returns what an installation would do, and does nothing.
func TestReview(t *testing.T) {
	b := newBench(t)
	b.Names = []string{"bridge", "host-local", "loopback"}
	foreign := []byte("#!/bin/sh\n")
	testutil.Must(t, os.WriteFile(filepath.Join(b.To, "host-local"), foreign, 0o755))
	for name, c := range map[string]struct {
		content []byte
		want    string
	}{
		"older":   {b.older, "bridge: upgraded v1.8.0 -> v1.9.1"},
		"same":    {b.ours, "bridge: kept: it is the same"},
		"newer":   {b.newer, "bridge: kept: newer v2.0.0"},
		"foreign": {foreign, "bridge: kept: not a stock plugin"},
		"cut":     {b.ours[:len(b.ours)/2], "bridge: repaired v1.9.1: its end was missing"},
	} {
		t.Run(name, func(t *testing.T) {
			testutil.Must(t, os.WriteFile(b.at(), c.content, 0o755))
			testutil.Must(t, os.Chmod(b.at(), 0o755)) // whatever the umask
			results, err := b.Review()
			testutil.Must(t, err)
			// Nothing is offered for host-local, and there is no loopback.
			if got := lines(results); got != c.want+"\nhost-local: kept: not a stock plugin" {
				t.Errorf("it is\n%s", got)
			}
			b.has(t, c.content)
		})
	}
	b.To = filepath.Join(b.To, "none")
	if _, err := b.Review(); err == nil {
		t.Error("a folder that is not there can be reviewed")
	}
}
