package inject

import (
	"os"
	"testing"

	"github.com/plainroute/plainroute/test/testutil"
)

func TestMain(m *testing.M) {
	if os.Getenv(clockVariable) != "" {
		printTheTime()
	}
	os.Exit(testutil.RunInSandbox(m, nil))
}
