package fleet

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
)

func TestPortOf(t *testing.T) {
	env := func(value string) []corev1.EnvVar { return []corev1.EnvVar{{Name: "PLAINROUTE_LISTEN", Value: value}} }
	for _, c := range []struct {
		env  []corev1.EnvVar
		args []string
		want int
	}{
		{nil, nil, defaultPort},
		{env("127.0.0.1:9999"), []string{"agent"}, 9999},
		{env("[::1]:9999"), nil, 9999},
		{env("127.0.0.1:9999"), []string{"agent", "--listen=:8888"}, 8888},
		{nil, []string{"agent", "--listen", "127.0.0.1:7777"}, 7777},
		{nil, []string{"agent", "--listen"}, defaultPort},
		{env("nonsense"), nil, defaultPort},
		{env("127.0.0.1:99999"), nil, defaultPort},
	} {
		if got := portOf(&corev1.Container{Env: c.env, Args: c.args}); got != c.want {
			t.Errorf("%v %q: got %d, want %d", c.env, c.args, got, c.want)
		}
	}
}

// In an update the old pod of a node goes while the new one comes.
func TestRather(t *testing.T) {
	pod := func(created time.Duration, going bool) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(now.Add(created))}}
		if going {
			p.DeletionTimestamp = &p.CreationTimestamp
		}
		return p
	}
	for _, c := range []struct {
		better, worse *corev1.Pod
	}{
		{pod(time.Second, false), pod(0, false)},
		{pod(0, false), pod(time.Second, true)},
		{pod(time.Second, true), pod(0, true)},
	} {
		if !preferred(c.better, c.worse) || preferred(c.worse, c.better) {
			t.Errorf("of %v and %v the wrong one is asked", c.better.ObjectMeta, c.worse.ObjectMeta)
		}
	}
}

// A Node without a kernel has no agent to miss.
func TestVirtualNodesAreNotManaged(t *testing.T) {
	for label, value := range map[string]string{"type": "kwok", "liqo.io/type": "virtual-node", "eks.amazonaws.com/compute-type": "fargate"} {
		row := rowOf(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{corev1.LabelOSStable: "linux", label: value}}})
		if row.NoReport != problem.NotManaged || !strings.HasSuffix(row.Message, label+"="+value) {
			t.Errorf("%s=%s: %s, %s", label, value, row.NoReport, row.Message)
		}
	}
}

func TestIdle(t *testing.T) {
	waits := func(reason string) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: "agent", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}}
	}
	initial := func(state corev1.ContainerState) []corev1.ContainerStatus {
		return []corev1.ContainerStatus{{Name: "install-cni", State: state}}
	}
	for _, c := range []struct {
		status corev1.PodStatus
		want   string
	}{
		{corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "agent", State: up()}}}, ""},
		{corev1.PodStatus{}, "the pod is Pending: no container was started yet"},
		{corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted"}, "the pod is Failed: Evicted"},
		{corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "too full"}}}, "the pod is Pending: too full"},
		{corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{waits("ImagePullBackOff")}}, "ImagePullBackOff"},
		{corev1.PodStatus{
			ContainerStatuses:     []corev1.ContainerStatus{waits("PodInitializing")},
			InitContainerStatuses: initial(corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1}}),
		}, "its init container install-cni ended with exit code 1 (kubectl -n a logs b -c install-cni)"},
		{corev1.PodStatus{
			ContainerStatuses:     []corev1.ContainerStatus{waits("PodInitializing")},
			InitContainerStatuses: initial(corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}),
		}, "its init container install-cni waits: CrashLoopBackOff"},
	} {
		if got := notRunning(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "b"}, Status: c.status}); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

// Of the subnets of a peer the worst counts, in whatever order they come.
func TestCells(t *testing.T) {
	w := newWorld(4)
	w.rows[3].Subnets = nil
	d := newAggregator(&Cluster{Nodes: w.rows})
	for _, states := range [][]status.PeerState{{status.OK, status.OffLink, status.OK}, {status.OffLink, status.OK}, {status.OK, status.OffLink}} {
		var peers []status.Peer
		for _, s := range states {
			peers = append(peers, status.Peer{Node: name(1), State: s})
		}
		if got := d.cells(&w.rows[0], peers).String(); got != ".g!-" {
			t.Errorf("%q: got %q, want .g!-", states, got)
		}
	}
	if got := d.cells(&w.rows[0], []status.Peer{{Node: name(1), State: "of a later version"}, {Node: "gone", State: status.Failed}}).String(); got != ".f!-" {
		t.Errorf("got %q, want .f!-", got)
	}
}
