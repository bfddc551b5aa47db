package nodes

import (
	"os"
	"testing"
	"time"

	"github.com/plainroute/plainroute/test/apiserver"
)

// limit bounds a wait on a machine under load.
const limit = 20 * time.Second

func TestMain(m *testing.M) { os.Exit(apiserver.Run(m)) }
