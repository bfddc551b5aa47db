package integration

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/plainroute/plainroute/test/netlab"
	"github.com/plainroute/plainroute/test/testutil"
)

// reaches fails the test unless TCP, UDP and a ping from a host arrive at an address, TCP and UDP seen as coming from
// want.
func reaches(ctx context.Context, t *testing.T, from *netlab.Host, to, want netip.Addr) {
	t.Helper()
	for network, ask := range map[string]func(context.Context, netip.Addr) (netlab.Reply, error){
		"tcp": from.TCP, "udp": from.UDP,
	} {
		sighting, err := ask(ctx, to)
		if err != nil {
			t.Error(err)
		} else if sighting.Source != want {
			t.Errorf("%s to %s over %s is seen as %s; want %s", from.Name, to, network, sighting.Source, want)
		}
	}
	if _, err := from.Ping(ctx, to); err != nil {
		t.Error(err)
	}
}

// reachesUnchanged is reaches over both families, with from's own address as the source.
func reachesUnchanged(ctx context.Context, t *testing.T, from, to *netlab.Host) {
	t.Helper()
	for _, address := range to.Addrs() {
		reaches(ctx, t, from, address, from.Addr(address))
	}
}

func TestPodsReachEachOtherWithoutNAT(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, limit)
	for _, from := range f.pods {
		for _, to := range f.pods {
			if from != to {
				reachesUnchanged(ctx, t, from.Host, to.Host)
			}
		}
	}
}

func TestPodReachesOutsideMasqueraded(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, limit)
	for _, pod := range f.pods {
		for _, address := range f.Outside.Addrs() {
			reaches(ctx, t, pod.Host, address, pod.Node.Addr(address))
		}
	}
}

// A host-network pod is a pod too: other nodes see the pod's own address.
func TestPodReachesNodesWithoutNAT(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, limit)
	for _, pod := range f.pods {
		for _, node := range f.nodes {
			reachesUnchanged(ctx, t, pod.Host, node.Host)
		}
	}
}

// Own pods see the bridge's address, which is the one nearest to them; all others the node's.
func TestNodeReachesPods(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, limit)
	for _, node := range f.nodes {
		for _, pod := range f.pods {
			if pod.Node != node {
				reachesUnchanged(ctx, t, node.Host, pod.Host)
				continue
			}
			for i, address := range pod.Addrs() {
				reaches(ctx, t, node.Host, address, node.Subnets[i].Addr().Next())
			}
		}
	}
}

// Pods come and go, and their addresses are free again.
func TestPodIsDetached(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, limit)
	pod, err := f.nodes[0].AddPod(ctx, "short-lived")
	testutil.Must(t, err)
	reachesUnchanged(ctx, t, pod.Host, f.pods[3].Host)
	gone := pod.V4
	testutil.Must(t, pod.Remove(ctx))
	if _, err := f.pods[3].Ping(testutil.Within(t, time.Second), gone); err == nil {
		t.Errorf("%s still answers", gone)
	}
}
