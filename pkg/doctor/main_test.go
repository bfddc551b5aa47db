package doctor

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/plainroute/plainroute/test/sandbox"
)

// skipReason is set when no sandbox can be made here.
var skipReason string

// TestMain moves all tests into network, mount and process namespaces of their own:
// checks start goroutines, whose threads have to be in the namespace too.
func TestMain(m *testing.M) {
	box, code, err := sandbox.Enter(nil)
	switch {
	case errors.Is(err, sandbox.ErrNotPermitted):
		skipReason = err.Error()
	case err != nil:
		fmt.Fprintln(os.Stderr, "doctor:", err)
		os.Exit(code)
	case box == nil:
		os.Exit(code)
	}
	os.Exit(m.Run())
}
