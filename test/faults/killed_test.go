package faults

import (
	"errors"
	"net/http"
	"os/exec"
	"syscall"
	"testing"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/inject"
	"github.com/plainroute/plainroute/test/testutil"
)

// runUninstall runs an uninstall on the peer, which is killed before one of its writes to the API server.
func (r *removal) runUninstall(proxy *inject.Proxy, w *writes) {
	r.t.Helper()
	cmd := exec.CommandContext(r.within(limit), testutil.Agent(), append(r.args(), "--kubeconfig", proxy.Kubeconfig())...)
	started := make(chan struct{})
	proxy.Inject(func(server http.RoundTripper, q *http.Request) (*http.Response, error) {
		<-started
		if q.Method != http.MethodGet && !w.allow(q.Method+" "+q.URL.Path) {
			return nil, errors.Join(errors.New("the program was killed"), cmd.Process.Kill())
		}
		return server.RoundTrip(q)
	})
	r.must(r.peer.Do(cmd.Start))
	close(started)
	if err := cmd.Wait(); err != nil && w.killedBefore() == "" {
		r.t.Fatal(err)
	}
}

// An uninstall that is killed before any of its writes to the API server can be run again: no DaemonSet is left, nothing on the
// nodes, and the condition of an agent is gone, but not another program's. Agents can be installed again in between.
func TestKilledAtEachWriteOfAnUninstall(t *testing.T) {
	r := newRemoval(t, both)
	r.condition(r.peer, "CloudRoutes")
	proxy, err := inject.NewProxy(r.pool.Cluster, proxyPort+r.node.Index)
	r.must(err)
	t.Cleanup(proxy.Close)
	config, err := clientcmd.BuildConfigFromFlags("", r.kubeconfig)
	r.must(err)
	r.must(proxy.As(config))
	r.must(r.pods[0].Remove(r.within(limit)))
	r.must(r.peer.StopAgent(syscall.SIGTERM))
	r.must(r.node.StopAgent(syscall.SIGTERM))
	crashAt(t, 1, func(w *writes) {
		r.comesBack()
		r.condition(r.node, topology.ConditionReason)
		r.must(r.node.StopAgent(syscall.SIGTERM))
		r.runUninstall(proxy, w)
	}, func() {
		rows, _ := r.uninstall(r.within(limit), 0)
		if !rowOf(t, rows, r.node).Clean || !rowOf(t, rows, r.peer).Clean {
			t.Errorf("the next run shows %+v", rows)
		}
		r.nothingLeft()
		if r.hasCondition(r.node) || !r.hasCondition(r.peer) {
			t.Error("the conditions are not as they should be: ours gone, the other there")
		}
	})
}
