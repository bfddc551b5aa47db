package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/pkg/uninstall"
	"github.com/plainroute/plainroute/test/nodelab"
)

// removal is a cluster from which plainroute is being removed, by a user who has the rights that
// the help lists and no others.
type removal struct {
	*lab
	namespace, kubeconfig string
}

// newRemoval has kubelets on some nodes, which may be changed before they start.
func newRemoval(t *testing.T, nodes func(*lab) []*nodelab.Node, change ...func(*nodelab.Kubelets)) *removal {
	t.Helper()
	l := cleanupLab(t, nodelab.AgentOptions{})
	name := strings.ToLower(t.Name())
	r := &removal{lab: l, namespace: name}
	kubelets := &nodelab.Kubelets{Cluster: l.pool.Cluster, Namespace: name, Nodes: nodes(l)}
	for _, apply := range change {
		apply(kubelets)
	}
	ctx := l.within(limit)
	_, err := l.pool.Client().CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	l.must(err)
	r.kubeconfig, err = l.pool.AddUser(name)
	l.must(err)
	l.must(l.pool.API.Grant(ctx, name, name,
		rbacv1.PolicyRule{APIGroups: []string{"apps"}, Resources: []string{"daemonsets"}, Verbs: []string{"create", "get", "list", "delete"}},
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list"}}))
	l.must(l.pool.API.Grant(ctx, name, "",
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"list"}},
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"nodes/status"}, Verbs: []string{"patch"}}))
	playing, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- kubelets.Run(playing) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return r
}

func both(l *lab) []*nodelab.Node { return []*nodelab.Node{l.node.Node, l.peer.Node} }

func (r *removal) args() []string {
	return []string{"uninstall", "--kubeconfig", r.kubeconfig, "--namespace", r.namespace, "--image", "localhost/plainroute:1", "-o", "json"}
}

// uninstall runs it where the API server can be reached.
func (r *removal) uninstall(ctx context.Context, code int, args ...string) (uninstall.Rows, nodelab.Command) {
	r.t.Helper()
	done, err := r.peer.Plainroute(ctx, append(r.args(), args...)...)
	r.must(err)
	if done.Code != code {
		r.t.Fatalf("uninstall %q ended with %d, want %d\n%s%s", args, done.Code, code, done.Stdout, done.Stderr)
	}
	r.t.Logf("%s", done.Stderr)
	sets, err := r.pool.Client().AppsV1().DaemonSets(r.namespace).List(r.within(limit), metav1.ListOptions{})
	r.must(err)
	if len(sets.Items) > 0 {
		r.t.Errorf("a DaemonSet is left: %v", sets.Items[0].Name)
	}
	var report uninstall.Report
	if done.Stdout != "" {
		r.must(json.Unmarshal([]byte(done.Stdout), &report))
		var table strings.Builder
		r.must(report.Print(&table))
		r.t.Logf("\n%s", table.String())
	}
	return report.Nodes, done
}

// rowOf picks a node's row.
func rowOf(t *testing.T, rows uninstall.Rows, node *machine) uninstall.Row {
	t.Helper()
	i := slices.IndexFunc(rows, func(row uninstall.Row) bool { return row.Node == node.Name })
	if len(rows) != 2 || i < 0 {
		t.Fatalf("there is no row of %s, or there are others than two: %+v", node.Name, rows)
	}
	return rows[i]
}

// condition gives a Node the condition, as an agent or another program would.
func (r *removal) condition(node *machine, reason string) {
	r.t.Helper()
	nodes := r.pool.Client().CoreV1().Nodes()
	object, err := nodes.Get(r.within(limit), node.Name, metav1.GetOptions{})
	r.must(err)
	object.Status.Conditions = append(object.Status.Conditions, corev1.NodeCondition{
		Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionFalse, Reason: reason,
	})
	_, err = nodes.UpdateStatus(r.within(limit), object, metav1.UpdateOptions{})
	r.must(err)
}

func (r *removal) hasCondition(node *machine) bool {
	r.t.Helper()
	object, err := r.pool.Client().CoreV1().Nodes().Get(r.within(limit), node.Name, metav1.GetOptions{})
	r.must(err)
	if len(object.Status.Conditions) == 0 {
		r.t.Error("all conditions are gone")
	}
	return slices.ContainsFunc(object.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeNetworkUnavailable })
}

func TestUninstall(t *testing.T) {
	r := newRemoval(t, both)
	r.condition(r.node, topology.ConditionReason)
	r.condition(r.peer, "CloudRoutes")
	before := r.picture()
	rows, _ := r.uninstall(r.within(limit), 0, "--dry-run")
	if len(rows) != 2 || !rows[0].DryRun || !rows[0].Clean || !strings.Contains(rows[0].Error, "it would be refused now: an agent runs") {
		t.Errorf("the dry run shows %+v", rows)
	}
	r.same(before, "after a dry run")
	if !r.hasCondition(r.node) {
		t.Error("the dry run deleted a condition")
	}

	r.must(r.pods[0].Remove(r.within(limit)))
	stopped := make(chan error, 1)
	time.AfterFunc(2*time.Second, func() { // pods of agents may still be there
		stopped <- r.node.StopAgent(syscall.SIGTERM)
		stopped <- r.peer.StopAgent(syscall.SIGTERM)
	})
	rows, _ = r.uninstall(r.within(limit), 0)
	r.must(<-stopped)
	r.must(<-stopped)
	drained, busy := rowOf(t, rows, r.node), rowOf(t, rows, r.peer)
	if !drained.Clean || !busy.Clean || len(drained.Kept) > 0 || len(busy.Kept) != 2 || drained.Removed["route"] != 4 {
		t.Errorf("got %+v", rows)
	}
	r.nothingLeft()
	if r.hasCondition(r.node) || !r.hasCondition(r.peer) {
		t.Error("the conditions are not as they should be: ours gone, the other there")
	}
	rows, _ = r.uninstall(r.within(limit), 0)
	if removed := rowOf(t, rows, r.node).Removed; len(removed) > 0 {
		t.Errorf("the second time: %+v", rows)
	}
	r.comesBack()
}

// A node that can't be cleaned is a row, with the reason, and the others are clean.
func TestUninstallLeavesNodes(t *testing.T) {
	r := newRemoval(t, func(l *lab) []*nodelab.Node { return []*nodelab.Node{l.node.Node} }, func(k *nodelab.Kubelets) {
		k.Change = func(_ *nodelab.Node, args []string) []string {
			return slices.DeleteFunc(args, func(arg string) bool { return strings.HasPrefix(arg, "--wait=") })
		}
	})
	dead, err := r.pool.Client().CoreV1().Nodes().Get(r.within(limit), r.peer.Name, metav1.GetOptions{})
	r.must(err)
	dead.Status.Conditions[0].Status = corev1.ConditionUnknown
	_, err = r.pool.Client().CoreV1().Nodes().UpdateStatus(r.within(limit), dead, metav1.UpdateOptions{})
	r.must(err)
	rows, done := r.uninstall(r.within(limit), 1, "--timeout", "2s")
	if !strings.HasPrefix(rowOf(t, rows, r.node).Error, "refused: an agent runs on this node") || rowOf(t, rows, r.peer).Error != "the node does not answer" {
		t.Errorf("got %+v", rows)
	}
	names := []string{r.node.Name, r.peer.Name}
	slices.Sort(names)
	if want := fmt.Sprintf("2 of 2 nodes are not clean: %s; ", strings.Join(names, " and ")); !strings.Contains(done.Stderr, want) {
		t.Errorf("it printed %q, want %q", done.Stderr, want)
	}
	r.must(r.node.WaitReady(r.within(limit)))
	r.must(r.node.AwaitRoute(r.within(limit), r.peer.Subnets...))
}

// While a DaemonSet makes agents, no node is touched. This is what comes of `helm template |
// kubectl apply`, which makes the hook's Job beside them.
func TestUninstallRefusesBesideDaemonSet(t *testing.T) {
	r := newRemoval(t, both)
	before := r.picture()
	labels := map[string]string{"app.kubernetes.io/part-of": "plainroute", "app.kubernetes.io/component": "agent"}
	sets := r.pool.Client().AppsV1().DaemonSets(r.namespace)
	_, err := sets.Create(r.within(limit), &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "agents", Labels: labels},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "agent", Image: "localhost/plainroute:1"}}},
			},
		},
	}, metav1.CreateOptions{})
	r.must(err)
	done, err := r.peer.Plainroute(r.within(limit), r.args()...)
	r.must(err)
	if want := "refused: DaemonSet agents in namespace " + r.namespace; done.Code != 3 || done.Stdout != "" || !strings.Contains(done.Stderr, want) {
		t.Errorf("it ended with %d, printed %q to stdout and %q to stderr; want 3 and %q", done.Code, done.Stdout, done.Stderr, want)
	}
	r.same(before, "after a refusal")
	left, err := sets.List(r.within(limit), metav1.ListOptions{})
	r.must(err)
	if len(left.Items) != 1 {
		t.Errorf("there are %d DaemonSets; want that of the agents alone", len(left.Items))
	}
}

// untilUnderWay ends when there is a DaemonSet.
func (r *removal) untilUnderWay() context.Context {
	ctx, cancel := context.WithCancel(r.within(limit))
	go func() {
		defer cancel()
		for ctx.Err() == nil {
			sets, err := r.pool.Client().AppsV1().DaemonSets(r.namespace).List(ctx, metav1.ListOptions{})
			if err == nil && len(sets.Items) > 0 {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	return ctx
}

// An uninstall that is interrupted leaves nothing behind. One that is killed leaves what the next
// run removes.
func TestUninstallInterrupted(t *testing.T) {
	r := newRemoval(t, func(*lab) []*nodelab.Node { return nil })
	killed, err := r.peer.Plainroute(r.untilUnderWay(), r.args()...)
	r.must(err)
	sets := r.pool.Client().AppsV1().DaemonSets(r.namespace)
	left, err := sets.List(r.within(limit), metav1.ListOptions{})
	r.must(err)
	if killed.Code != -1 || len(left.Items) != 1 {
		t.Fatalf("the killed run ended with %d and left %d DaemonSets", killed.Code, len(left.Items))
	}
	_, done := r.uninstall(r.within(limit), 1, "--timeout", "1s")
	if !strings.Contains(done.Stderr, " of an earlier run") {
		t.Errorf("it printed %q", done.Stderr)
	}

	interrupted, err := r.peer.PlainrouteUntil(r.untilUnderWay(), syscall.SIGTERM, r.args()...)
	r.must(err)
	if interrupted.Code != 1 || !strings.Contains(interrupted.Stderr, "interrupted: ") {
		t.Errorf("the interrupted run ended with %d and printed %q", interrupted.Code, interrupted.Stderr)
	}
	if left, err = sets.List(r.within(limit), metav1.ListOptions{}); err != nil || len(left.Items) > 0 {
		t.Errorf("the interrupted run left %v, %v", left, err)
	}
}

// An uninstall without the rights reports which ones are missing, and leaves nothing.
func TestUninstallWithoutRights(t *testing.T) {
	r := newRemoval(t, both)
	r.namespace = metav1.NamespaceDefault
	_, done := r.uninstall(r.within(limit), 1)
	if !strings.Contains(done.Stderr, `cannot list resource "daemonsets"`) {
		t.Errorf("it printed %q", done.Stderr)
	}
}
