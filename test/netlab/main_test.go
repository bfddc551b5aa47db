package netlab

import (
	"os"
	"testing"

	"github.com/plainroute/plainroute/test/testutil"
)

func TestMain(m *testing.M) { os.Exit(testutil.RunInSandbox(m, nil)) }
