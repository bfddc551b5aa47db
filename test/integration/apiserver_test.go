package integration

import (
	"net/http"
	"testing"
	"time"

	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/plainroute/plainroute/test/inject"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// gate makes a way to the API server for one node's agent.
func (f *fixture) gate(node *nodelab.Node) (*inject.Gate, error) {
	return inject.NewGate(f.Cluster, 7000+node.Index)
}

// A lost API server changes nothing in the kernel; the agent catches up when it is back.
func TestAPIServerLost(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, limit)
	node, late := f.node(t), f.node(t)
	gate, err := f.gate(node)
	testutil.Must(t, err)
	testutil.Must(t, gate.Open())
	t.Cleanup(gate.Shut)
	testutil.Must(t, node.Register(ctx))
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{Kubeconfig: gate.Kubeconfig()}))
	testutil.Must(t, node.WaitReady(ctx))
	for _, peer := range f.nodes {
		testutil.Must(t, node.AwaitRoute(ctx, peer.Subnets...))
	}
	watch, err := node.WatchRoutes()
	testutil.Must(t, err)
	defer watch.Close()

	gate.Shut()
	testutil.Must(t, late.Register(ctx))
	<-time.After(3 * time.Second)
	stays(t, watch)
	_, err = node.Heal(ctx, f.nodes[0].Subnets[0])
	testutil.Must(t, err)
	testutil.Must(t, node.WaitReady(ctx))

	delays, err := nodelab.AwaitRoutes(ctx, []*nodelab.Node{node}, true, late.Subnets, gate.Open)
	testutil.Must(t, err)
	report(t, "routes to a node that came meanwhile, counted from the API server's return,", delays, 30*time.Second)
}

func TestAPIServerRefuses(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, limit)
	node := f.node(t)
	stranger := "stranger-on-" + node.Name
	kubeconfig, err := f.AddUser(stranger)
	testutil.Must(t, err)
	testutil.Must(t, node.Register(ctx))
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{Kubeconfig: kubeconfig}))
	waitNotReady(t, node, "APIUnavailable", "forbidden")
	hasNoConfig(t, node)
	testutil.Must(t, f.Grant(ctx, stranger))
	comesAlive(t, node)
}

// A kubeconfig with invalid credentials: 401, where a user without rights gets 403.
func TestInvalidCredentials(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, limit)
	node := f.node(t)
	kubeconfig, err := f.Kubeconfig("unknown", func(config *clientcmdapi.Config) {
		for _, user := range config.AuthInfos {
			*user = clientcmdapi.AuthInfo{Token: "invalid"}
		}
	})
	testutil.Must(t, err)
	testutil.Must(t, node.Register(ctx))
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{Kubeconfig: kubeconfig}))
	waitNotReady(t, node, "APIUnavailable", http.StatusText(http.StatusUnauthorized))
	hasNoConfig(t, node)
}
