// Package checks has plainroute check deal with a real API server: one that is away for a while, that refuses what it is
// sent, that holds what an earlier run left. Controllers and kubelets are played by the test.
//
// Everything runs in a sandbox; where none can be made, or binaries are missing, every test is skipped with the reason.
package checks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/plainroute/plainroute/test/cluster"
	"github.com/plainroute/plainroute/test/cluster/sandbox"
)

// limit is what a single wait may take on a machine under load, before it counts as hanging.
const limit = time.Minute

// skipReason is set once, before any test runs.
var skipReason string

// shared is the one cluster of all tests, made by the first that needs it.
var shared func() (*cluster.Cluster, error)

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	root, err := filepath.Abs("../..")
	if err != nil {
		fmt.Fprintln(os.Stderr, "checks:", err)
		return 1
	}
	config := cluster.ConfigFromEnv(root, "/run/cluster")
	if err := config.Check(); err != nil {
		skipReason = err.Error()
		return m.Run()
	}
	box, code, err := sandbox.Enter(nil)
	switch {
	case errors.Is(err, sandbox.ErrNotPermitted):
		skipReason = err.Error()
		return m.Run()
	case err != nil:
		fmt.Fprintln(os.Stderr, "checks:", err)
		return code
	case box == nil:
		return code
	}
	shared = sync.OnceValues(func() (*cluster.Cluster, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*limit)
		defer cancel()
		return cluster.Start(ctx, config)
	})
	return m.Run()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
