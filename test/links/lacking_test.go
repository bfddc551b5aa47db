package links

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// features are what a kernel may lack, with the Reason and words of the Problem, and how a test sees that it is lacking.
var features = []struct {
	reason problem.Reason
	words  string
	lacks  func(*testing.T, *nodelab.Node) bool
}{
	{problem.TableFailed, "nf_tables", func(t *testing.T, node *nodelab.Node) bool {
		var err error
		testutil.Must(t, node.Do(func() error {
			var conn *nftables.Conn
			if conn, err = nftables.New(); err == nil {
				_, err = conn.ListTables()
			}
			return nil
		}))
		return err != nil
	}},
	{problem.TunnelFailed, "module vxlan", func(t *testing.T, node *nodelab.Node) bool {
		device := &netlink.Vxlan{LinkAttrs: attrs("try", nil), VxlanId: 1, Port: 4000}
		err := node.Handle().LinkAdd(device)
		if err == nil {
			testutil.Must(t, node.Handle().LinkDel(device))
		}
		return errors.Is(err, unix.EOPNOTSUPP)
	}},
	{problem.SettingMissing, "module br_netfilter", func(*testing.T, *nodelab.Node) bool {
		_, err := os.Stat("/proc/sys/net/bridge")
		return errors.Is(err, os.ErrNotExist)
	}},
}

// What a kernel lacks is reported by a Problem that names it, one for each family at most, and nothing else is.
func TestKernelWithout(t *testing.T) {
	ctx := testutil.Within(t, limit)
	f := setup(t)
	wanted := map[problem.Reason]string{}
	for _, feature := range features {
		if feature.lacks(t, f.nodes[0]) {
			wanted[feature.reason] = feature.words
		}
	}
	if len(wanted) == 0 {
		t.Skip("this kernel has all features; `hack/kernels.sh all` boots one without them")
	}
	var args []string
	if wanted[problem.TunnelFailed] != "" { // without nftables, which filter them, there are none
		args = []string{"--encapsulation=always"}
	}
	for _, node := range f.nodes {
		testutil.Must(t, node.Register(ctx))
		testutil.Must(t, node.StartAgent(nodelab.AgentOptions{Args: args}))
	}
	testutil.AwaitWithin(t, limit, testutil.Interval, func() error {
		return namesAll(viewOf(ctx, t, f.nodes[0]).Problems, wanted)
	})
}

// namesAll returns an error unless problems are of the Reasons wanted, with their words.
func namesAll(problems []problem.Problem, wanted map[problem.Reason]string) error {
	found := map[problem.Reason]int{}
	for _, p := range problems {
		if words := wanted[p.Reason]; words == "" || !strings.Contains(p.Message+p.Complete().Remediation, words) {
			return fmt.Errorf("unexpected: %+v", p.Complete())
		}
		found[p.Reason]++
	}
	for reason, words := range wanted {
		if n := found[reason]; n == 0 || n > 2 {
			return fmt.Errorf("%d problems of %s; want one or two with %q", n, reason, words)
		}
	}
	return nil
}
