package nodestatus

import (
	"flag"
	"os"
	"testing"
	"time"

	"github.com/plainroute/plainroute/test/apiserver"
)

// limit bounds a wait on a machine under load.
const limit = 20 * time.Second

var update = flag.Bool("update", false, "write the results into testdata")

func TestMain(m *testing.M) { os.Exit(apiserver.Run(m)) }
