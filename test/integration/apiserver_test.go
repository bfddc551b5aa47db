package integration

import (
	"net/http"
	"testing"
	"time"

	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/plainroute/plainroute/test/cluster"
)

// gate makes a way to the API server for one node's agent.
func (f *fixture) gate(node *cluster.Node) (*cluster.Gate, error) {
	return f.NewGate(7000 + node.Index)
}

// A lost API server changes nothing in the kernel; what happened meanwhile is seen when it is back.
func TestAPIServerLost(t *testing.T) {
	f := setup(t)
	ctx := within(t, limit)
	node, late := f.node(t), f.node(t)
	gate, err := f.gate(node)
	must(t, err)
	must(t, gate.Open())
	t.Cleanup(gate.Shut)
	must(t, node.Register(ctx))
	must(t, node.StartAgent(cluster.AgentOptions{Kubeconfig: gate.Kubeconfig()}))
	must(t, node.WaitReady(ctx))
	for _, peer := range f.nodes {
		must(t, node.AwaitRoute(ctx, peer.Subnets...))
	}
	watch, err := node.WatchRoutes()
	must(t, err)
	defer watch.Close()

	gate.Shut()
	must(t, late.Register(ctx))
	<-time.After(3 * time.Second)
	stays(t, watch)
	_, err = node.Heal(ctx, f.nodes[0].Subnets[0])
	must(t, err)
	must(t, node.WaitReady(ctx))

	delays, err := cluster.AwaitRoutes(ctx, []*cluster.Node{node}, true, late.Subnets, gate.Open)
	must(t, err)
	report(t, "routes to a node that came meanwhile, counted from the API server's return,", delays, 30*time.Second)
}

func TestAPIServerRefuses(t *testing.T) {
	f := setup(t)
	ctx := within(t, limit)
	node := f.node(t)
	stranger := "stranger-on-" + node.Name
	kubeconfig, err := f.AddUser(stranger)
	must(t, err)
	must(t, node.Register(ctx))
	must(t, node.StartAgent(cluster.AgentOptions{Kubeconfig: kubeconfig}))
	waitNotReady(t, node, "APIUnavailable", "forbidden")
	hasNoConfig(t, node)
	must(t, f.Grant(ctx, stranger))
	comesAlive(t, node)
}

// A kubeconfig whose credentials nobody knows: 401, where a stranger gets 403.
func TestAPIServerDoesNotKnowUs(t *testing.T) {
	f := setup(t)
	ctx := within(t, limit)
	node := f.node(t)
	kubeconfig, err := f.Kubeconfig("unknown", func(config *clientcmdapi.Config) {
		for _, user := range config.AuthInfos {
			*user = clientcmdapi.AuthInfo{Token: "nobody's"}
		}
	})
	must(t, err)
	must(t, node.Register(ctx))
	must(t, node.StartAgent(cluster.AgentOptions{Kubeconfig: kubeconfig}))
	waitNotReady(t, node, "APIUnavailable", http.StatusText(http.StatusUnauthorized))
	hasNoConfig(t, node)
}
