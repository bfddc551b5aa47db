// Package checks has plainroute check deal with a real API server: one that is away for a while, that refuses what it is
// sent, that holds what an earlier run left. Controllers and kubelets are played by the test.
//
// Everything runs in a sandbox; where none can be made, or binaries are missing, every test is skipped with the reason.
package checks

import (
	"context"
	"os"
	"sync"
	"testing"

	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// limit bounds a single wait.
const limit = testutil.Limit

// shared is the one cluster of all tests, made by the first that needs it.
var shared = sync.OnceValues(func() (*nodelab.Cluster, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*limit)
	defer cancel()
	return nodelab.Start(ctx, nodelab.DefaultConfig())
})

func TestMain(m *testing.M) { os.Exit(testutil.RunInSandbox(m, nodelab.DefaultConfig().Check)) }
