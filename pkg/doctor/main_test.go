package doctor

import (
	"os"
	"testing"

	"github.com/plainroute/plainroute/test/testutil"
)

// TestMain moves all tests into network, mount and process namespaces of their own:
// checks start goroutines, whose threads have to be in the namespace too.
func TestMain(m *testing.M) { os.Exit(testutil.RunInSandbox(m, nil)) }
