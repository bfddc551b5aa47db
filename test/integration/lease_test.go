package integration

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// After 10,000 deaths without DEL, while other pods come and die, the leases of the dead are gone, and no live pod has
// lost its own. (pkg/leases tests which pods count as live.)
func TestAddressesOfDeadPodsAreGivenBack(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, 3*limit)
	node := f.node(t)
	testutil.Must(t, node.Register(ctx))
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{}))
	comesAlive(t, node)
	store := cni.Store{RunDir: node.RunDir}
	var live []*nodelab.Pod
	for i := range 3 {
		pod, err := node.AddPod(ctx, fmt.Sprintf("live-%d", i))
		testutil.Must(t, err)
		live = append(live, pod)
	}
	dead := leak(t, store, 10_000)
	killed, err := node.AddPod(ctx, "killed")
	testutil.Must(t, err)
	testutil.Must(t, killed.End())

	start := time.Now()
	for n := 0; leaked(t, store, dead) > 0; n++ { // at work like a node whose pods crash
		testutil.Must(t, ctx.Err())
		pod, err := node.AddPod(ctx, fmt.Sprintf("short-%d", n))
		testutil.Must(t, err)
		for _, other := range live {
			if pod.V4 == other.V4 || pod.V6 == other.V6 {
				t.Fatalf("%s has an address of %s", pod.Name, other.Name)
			}
		}
		testutil.Must(t, pod.End())
	}
	t.Logf("10,000 leases were given back in %s", time.Since(start))
	onlyLive(ctx, t, store, live)
	for _, pod := range live[1:] {
		reachesUnchanged(ctx, t, live[0].Host, pod.Host)
	}
}

// leak makes leases of containers that are gone, as host-local writes them.
func leak(t *testing.T, store cni.Store, n int) map[netip.Addr]bool {
	t.Helper()
	dir := filepath.Join(store.LeaseDir(), topology.Network)
	dead := make(map[netip.Addr]bool, n)
	addr := netip.MustParseAddr("10.200.0.1")
	for i := range n {
		testutil.Must(t, os.WriteFile(filepath.Join(dir, addr.String()), fmt.Appendf(nil, "gone-%d\r\neth0", i), 0o600))
		dead[addr], addr = true, addr.Next()
	}
	return dead
}

// leaked counts the leases that are left of some.
func leaked(t *testing.T, store cni.Store, dead map[netip.Addr]bool) int {
	t.Helper()
	n := 0
	for _, addr := range store.Leases() {
		if dead[addr] {
			n++
		}
	}
	return n
}

// onlyLive waits until no other lease is left than those of live pods, which all must be there.
func onlyLive(ctx context.Context, t *testing.T, store cni.Store, live []*nodelab.Pod) {
	t.Helper()
	testutil.Must(t, testutil.Poll(ctx, 100*time.Millisecond, func() error {
		held := map[netip.Addr]string{}
		leases, err := store.HeldLeases()
		testutil.Must(t, err)
		for _, l := range leases {
			held[l.Addr] = l.Container
		}
		for _, pod := range live {
			for _, addr := range pod.Addrs() {
				if held[addr] != pod.Name {
					t.Fatalf("the lease of %s of %s is held by %q", addr, pod.Name, held[addr])
				}
			}
		}
		if len(held) != 2*len(live) {
			return fmt.Errorf("leases are left: %v", held)
		}
		return nil
	}))
}
