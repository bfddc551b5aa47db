package fleet

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/plainroute/plainroute/pkg/kube"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

const (
	// agents selects them by the manifests' labels.
	agents = "app.kubernetes.io/part-of=plainroute,app.kubernetes.io/component=agent"
	// container is the agent's in its pod, by the manifests.
	container = "agent"
	// defaultPort is that of agents without --listen.
	defaultPort = 9472
)

// find lists the Nodes, and the agents' pods by node: those that the agents' DaemonSet controls.
func find(ctx context.Context, client *kube.Client, namespace string) ([]Row, map[string]*corev1.Pod, error) {
	sets, err := DaemonSets(ctx, client, namespace)
	if err != nil {
		return nil, nil, err
	}
	uids := map[types.UID]bool{}
	for i := range sets {
		namespace, uids[sets[i].UID] = sets[i].Namespace, true
	}
	var rows []Row
	pods := map[string]*corev1.Pod{}
	both, ctx := errgroup.WithContext(ctx)
	list := func(what string, each func() error) {
		both.Go(func() error {
			if err := each(); err != nil {
				return fmt.Errorf("listing %s: %w", what, err)
			}
			return nil
		})
	}
	list("Nodes", func() error {
		return Each(ctx, client.Nodes().List, metav1.ListOptions{}, func(n *corev1.Node) { rows = append(rows, rowOf(n)) })
	})
	if len(sets) > 0 {
		list("the agents' pods", func() error {
			return Each(ctx, client.Pods(namespace).List, metav1.ListOptions{LabelSelector: agents}, func(p *corev1.Pod) {
				if old := pods[p.Spec.NodeName]; p.Spec.NodeName != "" && isAgent(p, uids) && (old == nil || preferred(p, old)) {
					pods[p.Spec.NodeName] = p
				}
			})
		})
	}
	if err := both.Wait(); err != nil {
		return nil, nil, err
	}
	slices.SortFunc(rows, func(a, b Row) int { return cmp.Compare(a.Node, b.Node) })
	for i := range rows {
		if rows[i].NoReport == problem.NoAgent {
			rows[i].Message = noAgent(namespace, len(sets), len(pods))
		}
	}
	return rows, pods, nil
}

// noAgent explains why a Node has no agent, given the numbers of DaemonSets and pods in a
// namespace.
func noAgent(namespace string, sets, pods int) string {
	switch {
	case sets == 0:
		return fmt.Sprintf("no agent runs on any node: plainroute is not installed, or its DaemonSet lacks the label %s; searched in: %s", agents, cmp.Or(namespace, strings.Join(defaultNamespaces, ", ")))
	case pods == 0:
		return fmt.Sprintf("no agent runs on any node: the DaemonSet has no pod (kubectl -n %s describe daemonset -l %s)", namespace, agents)
	}
	return fmt.Sprintf("no agent runs here: the DaemonSet has no pod on this node (kubectl -n %s describe daemonset -l %s)", namespace, agents)
}

func rowOf(n *corev1.Node) Row {
	row := Row{Node: n.Name, Subnets: append([]string{}, n.Spec.PodCIDRs...), NoReport: problem.NoAgent}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
			row.NotReady = cmp.Or(c.Message, c.Reason, "the kubelet gives no reason")
		}
	}
	os, label := n.Labels[corev1.LabelOSStable], topology.VirtualLabel(n.Labels)
	switch { // the affinity of the manifests
	case os != "" && os != "linux":
		row.NoReport, row.Message = problem.NotManaged, "no agent is supposed to run here: the operating system is "+os
	case label != "":
		row.NoReport, row.Message = problem.NotManaged, "no agent is supposed to run here: the Node has the label "+label
	}
	return row
}

// isAgent reports whether a pod with the label is an agent's: one of the DaemonSets controls it. The
// UID can't be guessed before the DaemonSet exists, and an owner is in the namespace of what it
// owns.
func isAgent(p *corev1.Pod, sets map[types.UID]bool) bool {
	owner := metav1.GetControllerOf(p)
	return owner != nil && owner.APIVersion == appsv1.SchemeGroupVersion.String() && owner.Kind == "DaemonSet" && sets[owner.UID] &&
		agentContainer(&p.Spec) != nil
}

func agentContainer(p *corev1.PodSpec) *corev1.Container {
	i := slices.IndexFunc(p.Containers, func(c corev1.Container) bool { return c.Name == container })
	if i < 0 {
		return nil
	}
	return &p.Containers[i]
}

// preferred reports whether to query pod p of a node instead of q: during an update the old pod
// ends while the new one starts.
func preferred(p, q *corev1.Pod) bool {
	if ending := p.DeletionTimestamp != nil; ending != (q.DeletionTimestamp != nil) {
		return !ending
	}
	return q.CreationTimestamp.Before(&p.CreationTimestamp)
}

func agentOf(p *corev1.Pod) *Agent {
	c := agentContainer(&p.Spec)
	a := &Agent{Namespace: p.Namespace, Pod: p.Name, Container: c.Name, Image: c.Image, Port: portOf(c)}
	if s := containerStatus(p); s != nil && s.State.Running != nil {
		a.Started = s.State.Running.StartedAt.UTC()
	}
	return a
}

// portOf returns the agent's port: an argument takes precedence over the environment, as in the
// agent.
func portOf(c *corev1.Container) int {
	listen := ""
	for _, e := range c.Env {
		if e.Name == "PLAINROUTE_LISTEN" {
			listen = e.Value
		}
	}
	for i, arg := range c.Args {
		if value, ok := strings.CutPrefix(arg, "--listen="); ok {
			listen = value
		}
		if arg == "--listen" && i+1 < len(c.Args) {
			listen = c.Args[i+1]
		}
	}
	_, text, _ := net.SplitHostPort(listen)
	if port, err := strconv.ParseUint(text, 10, 16); err == nil {
		return int(port)
	}
	return defaultPort
}

func containerStatus(p *corev1.Pod) *corev1.ContainerStatus {
	i := slices.IndexFunc(p.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.Name == container })
	if i < 0 {
		return nil
	}
	return &p.Status.ContainerStatuses[i]
}

// notRunning returns why an agent doesn't run; "" if it does.
func notRunning(p *corev1.Pod) string {
	logs := fmt.Sprintf("kubectl -n %s logs %s", p.Namespace, p.Name)
	s := containerStatus(p)
	switch {
	case s == nil:
		return waiting(p, fmt.Sprintf("the pod is %s: %s", cmp.Or(p.Status.Phase, corev1.PodPending), cmp.Or(p.Status.Message, p.Status.Reason, unscheduled(p), "no container was started yet")))
	case s.State.Running != nil:
		return ""
	case s.State.Waiting != nil:
		text := trimmed("%s: %s", s.State.Waiting.Reason, s.State.Waiting.Message)
		if last := s.LastTerminationState.Terminated; last != nil {
			text += fmt.Sprintf("; it last ended with exit code %d (%s -p)", last.ExitCode, logs)
		}
		return waiting(p, text)
	case s.State.Terminated != nil:
		return fmt.Sprintf("it ended with exit code %d: %s (%s)", s.State.Terminated.ExitCode, s.State.Terminated.Reason, logs)
	}
	return "no container was started yet"
}

// waiting returns the failure of an init container that the agent waits for, else text.
func waiting(p *corev1.Pod, text string) string {
	for _, s := range p.Status.InitContainerStatuses {
		switch w, t := s.State.Waiting, s.State.Terminated; {
		case w != nil && w.Reason != "PodInitializing":
			return fmt.Sprintf("its init container %s waits: %s", s.Name, trimmed("%s: %s", w.Reason, w.Message))
		case t != nil && t.ExitCode != 0:
			return fmt.Sprintf("its init container %s ended with exit code %d (kubectl -n %s logs %s -c %s)", s.Name, t.ExitCode, p.Namespace, p.Name, s.Name)
		}
	}
	return text
}

func unscheduled(p *corev1.Pod) string {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status != corev1.ConditionTrue {
			return c.Message
		}
	}
	return ""
}
