package connectivity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/pkg/kube"
	"github.com/plainroute/plainroute/pkg/topology"
)

// Run is one test of a cluster.
type Run struct {
	Client *kube.Client
	// Post sends a body to a path of the responder in a pod, and returns the response.
	Post  func(ctx context.Context, namespace, pod, path string, body []byte) (io.ReadCloser, error)
	Image string // plainroute's own, which contains the responder
	Pull  corev1.PullPolicy

	MaxNodes int      // how many nodes take part; of more, a random sample does
	Outside  []string // ADDRESS:PORTs outside of the cluster that pods should reach
	Keep     bool     // leaves the pods in place

	// Timeout bounds the wait for the pods, and the response of a pod beyond its probes' duration.
	Timeout        time.Duration
	RetryBudget    time.Duration // how long requests to the API server may fail
	RefusalTimeout time.Duration // how long a kubelet or the API server may refuse pods
	// Progress is called with the progress of a step, Notify with a line for the user.
	Progress func(what string, done, all int)
	Notify   func(string)

	sampled []string // names of the nodes that take part; nil: all
	mu      sync.Mutex
}

func (r *Run) progress(what string, done, all int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.Progress != nil {
		r.Progress(what, done, all)
	}
}

var errInterrupted = errors.New("interrupted")

// removalTimeout bounds the removal of the test's objects, after an interrupt as well.
const removalTimeout = time.Minute

// Do creates the pods, has them make their probes, and always removes them. If only the removal
// fails, it returns both the result and an error.
func (r *Run) Do(ctx context.Context) (result *Result, err error) {
	nodes, err := r.nodes(ctx)
	if err != nil {
		return nil, err
	}
	namespace, err := r.deploy(ctx)
	if namespace != "" {
		defer func() {
			if ctx.Err() != nil {
				result, err = nil, errInterrupted // instead of the errors that follow from it
			}
			err = errors.Join(err, r.remove(ctx, namespace))
		}()
	}
	if err != nil {
		return nil, err
	}
	pods, absent, err := r.wait(ctx, namespace, nodes)
	if err != nil {
		return nil, err
	}
	var svc *corev1.Service
	err = retry(ctx, r.RetryBudget, func(ctx context.Context) (err error) {
		svc, err = r.Client.Services(namespace).Get(ctx, service, metav1.GetOptions{})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("getting the test's Service: %w", err)
	}
	names, skipped, err := r.names(ctx)
	if err != nil {
		return nil, err
	}
	plan := newPlan(pods, nodes, svc.Spec.ClusterIPs, names, r.Outside)
	result = &Result{Nodes: plan.nodes, Skipped: skipped, Absent: absent, Sampled: r.sampled != nil}
	if len(plan.nodes) == 1 {
		result.Skipped = append(result.Skipped, "from node to node: only "+plan.nodes[0]+" took part")
	}
	result.Skipped = append(result.Skipped, untested(pods, r.Outside)...)
	if len(r.Outside) == 0 {
		result.Skipped = append(result.Skipped, "hosts outside: --outside ADDRESS:PORT names them")
	}
	if err := r.probe(ctx, namespace, plan, result); err != nil {
		return nil, err
	}
	return result, nil
}

// nodes returns those that should have pods, or a random sample. A Node without a status lacks the
// label of its system, so it is included.
func (r *Run) nodes(ctx context.Context) ([]corev1.Node, error) {
	list, err := r.Client.Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("listing nodes: %w", err)
	}
	list.Items = slices.DeleteFunc(list.Items, func(n corev1.Node) bool {
		os, labelled := n.Labels[corev1.LabelOSStable]
		return topology.Virtual(n.Labels) || os != "linux" && (labelled || readiness(&n) != nil)
	})
	if len(list.Items) == 0 {
		return nil, errors.New("no node runs Linux")
	}
	if len(list.Items) > r.MaxNodes {
		rand.Shuffle(len(list.Items), func(i, j int) { list.Items[i], list.Items[j] = list.Items[j], list.Items[i] })
		list.Items = list.Items[:r.MaxNodes]
		for i := range list.Items {
			r.sampled = append(r.sampled, list.Items[i].Name)
		}
	}
	return list.Items, nil
}

// names returns names that the cluster's DNS should resolve, if there is a DNS.
func (r *Run) names(ctx context.Context) (names, skipped []string, err error) {
	var list *corev1.ServiceList
	err = retry(ctx, r.RetryBudget, func(ctx context.Context) (err error) {
		list, err = r.Client.Services(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{LabelSelector: "k8s-app=kube-dns"})
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("listing the cluster's DNS Services: %w", err)
	}
	if len(list.Items) == 0 {
		return nil, []string{"names: the cluster has no DNS (no Service in kube-system is labelled k8s-app=kube-dns)"}, nil
	}
	return []string{service, "kubernetes.default"}, nil, nil
}

// maxPods is how many pods are queried at a time.
const maxPods = 32

func (r *Run) probe(ctx context.Context, namespace string, p *plan, result *Result) error {
	if len(p.tasks) == 0 {
		return fmt.Errorf("making probes: none of the test's pods has the label %s=%s", groupLabel, groups[0])
	}
	var done atomic.Int32
	outcomes := make([][]Outcome, len(p.tasks))
	var all errgroup.Group
	all.SetLimit(maxPods)
	failures := make([]error, len(p.tasks))
	for i := range p.tasks {
		all.Go(func() error {
			outcomes[i], failures[i] = r.requestAgain(ctx, namespace, &p.tasks[i])
			r.progress("pods have made all probes", int(done.Add(1)), len(p.tasks))
			return nil
		})
	}
	_ = all.Wait()
	failed := 0
	for i, task := range p.tasks {
		if failures[i] != nil { // the results of other nodes count
			result.Absent = append(result.Absent, nodeAbsent(task.from, failures[i].Error(),
				"check that the API server reaches its kubelet (port 10250): kubectl describe node "+task.from))
			failed++
		}
		for j, o := range outcomes[i] {
			result.add(task.from, task.targets[j], task.probes[j], o)
		}
	}
	if failed == len(p.tasks) {
		return failures[0]
	}
	result.sort()
	return nil
}

// requestAgain repeats a request that was lost, once the API server responds.
func (r *Run) requestAgain(ctx context.Context, namespace string, t *task) ([]Outcome, error) {
	outcomes, err := r.request(ctx, namespace, t)
	if err == nil || ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) {
		return outcomes, err
	}
	if err := retry(ctx, r.RetryBudget, func(ctx context.Context) error {
		_, err := r.Client.Pods(namespace).List(ctx, metav1.ListOptions{Limit: 1})
		return err
	}); err != nil {
		return nil, err
	}
	return r.request(ctx, namespace, t)
}

func (r *Run) request(ctx context.Context, namespace string, t *task) ([]Outcome, error) {
	timeout := r.Timeout + maxDuration(len(t.probes))
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	body, err := json.Marshal(t.probes)
	if err != nil {
		return nil, err
	}
	answer, err := r.Post(ctx, namespace, t.pod, "/probe", body)
	if err != nil {
		return nil, t.postError(err, timeout)
	}
	defer answer.Close()
	encoded, err := io.ReadAll(io.LimitReader(answer, 32<<20)) // more than the outcomes take
	if err != nil {
		return nil, t.postError(err, timeout)
	}
	var outcomes []Outcome
	if err := json.Unmarshal(encoded, &outcomes); err != nil {
		return nil, fmt.Errorf("reading the results of the pod on node %s: %w", t.from, err)
	}
	if len(outcomes) != len(t.probes) {
		return nil, fmt.Errorf("the pod on node %s returned %d of %d results", t.from, len(outcomes), len(t.probes))
	}
	return outcomes, nil
}

// postError describes a failed request; it wraps context.DeadlineExceeded if time ran out.
func (t *task) postError(err error, timeout time.Duration) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) { // of the connection
		return fmt.Errorf("the pod on node %s did not respond within %s: %w", t.from, timeout, context.DeadlineExceeded)
	}
	return fmt.Errorf("requesting probes from the pod on node %s: %w", t.from, err)
}

func (r *Run) remove(ctx context.Context, namespace string) error {
	if r.Keep {
		r.Notify("The pods stay in the namespace " + namespace + "; plainroute check --remove removes them.")
		return nil
	}
	if ctx.Err() != nil {
		r.Notify("Removing the test's objects; after another interrupt it stays until plainroute check --remove.")
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removalTimeout)
	defer cancel()
	if err := Remove(ctx, r.Client, namespace); err != nil {
		return fmt.Errorf("%w; plainroute check --remove tries again", err)
	}
	return nil
}
