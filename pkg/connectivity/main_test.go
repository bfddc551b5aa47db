package connectivity

import (
	"errors"
	"os"
	"testing"

	rtnl "github.com/vishvananda/netlink"

	"github.com/plainroute/plainroute/test/testutil"
)

// TestMain moves all tests to a network namespace of their own, whose loopback has the MTU of an Ethernet.
func TestMain(m *testing.M) { os.Exit(testutil.RunInSandbox(m, nil, loopback)) }

func loopback() error {
	lo, err := rtnl.LinkByName("lo")
	if err != nil {
		return err
	}
	return errors.Join(rtnl.LinkSetMTU(lo, 1500), rtnl.LinkSetUp(lo))
}
