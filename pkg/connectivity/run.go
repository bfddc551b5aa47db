package connectivity

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Run is one test of a cluster.
type Run struct {
	Client kubernetes.Interface
	// Post sends a body to a path of the responder in a pod, and gets its answer.
	Post func(ctx context.Context, namespace, pod, path string, body []byte) (io.ReadCloser, error)
	// Image is the product's own; it has all that the test takes.
	Image string
	Pull  corev1.PullPolicy
	// Most is how many nodes take part; of more, as many are drawn.
	Most int
	// Outside are ADDRESS:PORTs beyond the cluster that pods should reach.
	Outside []string
	// Timeout bounds the wait for the pods, and for the answer of one of them beyond the
	// time that its probes may take.
	Timeout time.Duration
	// Patience is how long the API server may fail meanwhile.
	Patience time.Duration
	// Settling is how long a kubelet or the API server may refuse pods until they are not
	// waited for any more.
	Settling time.Duration
	// Keep leaves the pods there.
	Keep bool
	// Progress is told how far something is; Say is told what happens.
	Progress func(what string, done, all int)
	Say      func(string)

	sampled []string // the names of nodes that take part; nil: all
	telling sync.Mutex
}

func (r *Run) say(what string, done, all int) {
	r.telling.Lock()
	defer r.telling.Unlock()
	if r.Progress != nil {
		r.Progress(what, done, all)
	}
}

var errInterrupted = errors.New("interrupted")

// removal bounds the removal of what the test made, also when it was interrupted.
const removal = time.Minute

// Do deploys the pods, has them make their probes, and removes them again, whatever
// happens. What they found stands where only the removal fails, which is the error then.
func (r *Run) Do(ctx context.Context) (result *Result, err error) {
	nodes, err := r.nodes(ctx)
	if err != nil {
		return nil, err
	}
	namespace, err := r.deploy(ctx)
	if namespace != "" {
		defer func() {
			if ctx.Err() != nil {
				result, err = nil, errInterrupted // whatever that made of what went on
			}
			err = errors.Join(err, r.remove(ctx, namespace))
		}()
	}
	if err != nil {
		return nil, err
	}
	pods, absent, err := r.await(ctx, namespace, nodes)
	if err != nil {
		return nil, err
	}
	var svc *corev1.Service
	err = insist(ctx, r.Patience, func(ctx context.Context) (err error) {
		svc, err = r.Client.CoreV1().Services(namespace).Get(ctx, service, metav1.GetOptions{})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("looking at the test's Service: %w", err)
	}
	names, skipped, err := r.names(ctx)
	if err != nil {
		return nil, err
	}
	plan := newPlan(pods, nodes, svc.Spec.ClusterIPs, names, r.Outside)
	result = &Result{Nodes: plan.nodes, Skipped: skipped, Absent: absent, Drawn: r.sampled != nil}
	if len(plan.nodes) == 1 {
		result.Skipped = append(result.Skipped, "from node to node: "+plan.nodes[0]+" alone took part")
	}
	result.Skipped = append(result.Skipped, foreign(pods, r.Outside)...)
	if len(r.Outside) == 0 {
		result.Skipped = append(result.Skipped, "the world outside: --outside ADDRESS:PORT says whom to reach there")
	}
	if err := r.probe(ctx, namespace, plan, result); err != nil {
		return nil, err
	}
	return result, nil
}

// nodes lists those that should have pods, and draws some where they are too many. One
// that no kubelet has ever reported of lacks the labels too, by which it would be known.
func (r *Run) nodes(ctx context.Context) ([]corev1.Node, error) {
	list, err := r.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("listing nodes: %w", err)
	}
	list.Items = slices.DeleteFunc(list.Items, func(n corev1.Node) bool {
		os, labelled := n.Labels[corev1.LabelOSStable]
		return topology.Virtual(n.Labels) || os != "linux" && (labelled || readiness(&n) != nil)
	})
	if len(list.Items) == 0 {
		return nil, errors.New("there is no node with Linux")
	}
	if len(list.Items) > r.Most {
		rand.Shuffle(len(list.Items), func(i, j int) { list.Items[i], list.Items[j] = list.Items[j], list.Items[i] })
		list.Items = list.Items[:r.Most]
		for i := range list.Items {
			r.sampled = append(r.sampled, list.Items[i].Name)
		}
	}
	return list.Items, nil
}

// names are what the cluster's DNS should know, if it has one.
func (r *Run) names(ctx context.Context) (names, skipped []string, err error) {
	var list *corev1.ServiceList
	err = insist(ctx, r.Patience, func(ctx context.Context) (err error) {
		list, err = r.Client.CoreV1().Services(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{LabelSelector: "k8s-app=kube-dns"})
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("looking for the cluster's DNS: %w", err)
	}
	if len(list.Items) == 0 {
		return nil, []string{"names: the cluster has no DNS (no Service in kube-system is labelled k8s-app=kube-dns)"}, nil
	}
	return []string{service, "kubernetes.default"}, nil, nil
}

// podsAtOnce is how many pods are asked at a time.
const podsAtOnce = 32

func (r *Run) probe(ctx context.Context, namespace string, p *plan, result *Result) error {
	var done atomic.Int32
	outcomes := make([][]Outcome, len(p.tasks))
	var all errgroup.Group
	all.SetLimit(podsAtOnce)
	failures := make([]error, len(p.tasks))
	for i := range p.tasks {
		all.Go(func() error {
			outcomes[i], failures[i] = r.askTwice(ctx, namespace, &p.tasks[i])
			r.say("pods have tried everything", int(done.Add(1)), len(p.tasks))
			return nil
		})
	}
	_ = all.Wait()
	silent := 0
	for i, task := range p.tasks {
		if failures[i] != nil { // of one node, and what the others found counts
			result.Absent = append(result.Absent, nodeAbsent(task.from, failures[i].Error(),
				"does the API server reach the kubelet there (port 10250)? kubectl describe node "+task.from))
			silent++
		}
		for j, o := range outcomes[i] {
			result.add(task.from, task.targets[j], task.probes[j], o)
		}
	}
	if silent == len(p.tasks) {
		return failures[0]
	}
	result.sort()
	return nil
}

// answerMost is more than the outcomes of a pod's probes take.
const answerMost = 32 << 20

// askTwice has what was lost on the way through the API server tried again, once that
// answers.
func (r *Run) askTwice(ctx context.Context, namespace string, t *task) ([]Outcome, error) {
	outcomes, err := r.ask(ctx, namespace, t)
	if err == nil || ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) {
		return outcomes, err
	}
	if err := insist(ctx, r.Patience, func(ctx context.Context) error {
		_, err := r.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{Limit: 1})
		return err
	}); err != nil {
		return nil, err
	}
	return r.ask(ctx, namespace, t)
}

func (r *Run) ask(ctx context.Context, namespace string, t *task) ([]Outcome, error) {
	patience := r.Timeout + longest(len(t.probes))
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	body, err := json.Marshal(t.probes)
	if err != nil {
		return nil, err
	}
	answer, err := r.Post(ctx, namespace, t.pod, "/probe", body)
	if err != nil {
		return nil, t.unheard(err, patience)
	}
	defer answer.Close()
	var outcomes []Outcome
	var all bytes.Buffer
	if _, err := io.Copy(&all, io.LimitReader(answer, answerMost)); err != nil {
		return nil, t.unheard(err, patience)
	}
	if err := json.Unmarshal(all.Bytes(), &outcomes); err != nil {
		return nil, fmt.Errorf("reading what the pod on node %s answers: %w", t.from, err)
	}
	if len(outcomes) != len(t.probes) {
		return nil, fmt.Errorf("the pod on node %s answers %d of %d probes", t.from, len(outcomes), len(t.probes))
	}
	return outcomes, nil
}

// unheard says why a pod's outcomes are not known; a context.DeadlineExceeded, if time ran out.
func (t *task) unheard(err error, patience time.Duration) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) { // of the connection
		return fmt.Errorf("the pod on node %s says nothing for %s: %w", t.from, patience, context.DeadlineExceeded)
	}
	return fmt.Errorf("asking the pod on node %s: %w", t.from, err)
}

func (r *Run) remove(ctx context.Context, namespace string) error {
	if r.Keep {
		r.Say("The pods stay in the namespace " + namespace + "; plainroute check --remove removes them.")
		return nil
	}
	if ctx.Err() != nil {
		r.Say("Removing what the test made; interrupted again, it stays until plainroute check --remove.")
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removal)
	defer cancel()
	if err := Remove(ctx, r.Client, namespace); err != nil {
		return fmt.Errorf("%w; plainroute check --remove tries again", err)
	}
	return nil
}

// task is what one pod has to try.
type task struct {
	pod, from string
	probes    []Probe
	targets   []string
}

// plan is what all pods have to try.
type plan struct {
	nodes []string
	tasks []task
}

func newPlan(pods []corev1.Pod, nodes []corev1.Node, services, names, outside []string) *plan {
	p := &plan{}
	for i := range pods {
		if node := pods[i].Spec.NodeName; !slices.Contains(p.nodes, node) {
			p.nodes = append(p.nodes, node)
		}
	}
	for i := range pods {
		if pods[i].Labels[groupLabel] == groups[0] {
			p.tasks = append(p.tasks, p.taskOf(&pods[i], pods, nodes, services, names, outside))
		}
	}
	return p
}

// taskOf has a pod speak to its like on all other nodes, and to the other pod of its own.
func (p *plan) taskOf(from *corev1.Pod, pods []corev1.Pod, nodes []corev1.Node, services, names, outside []string) task {
	t := task{pod: from.Name, from: from.Spec.NodeName}
	next := p.nodes[(slices.Index(p.nodes, t.from)+1)%len(p.nodes)]
	for i := range pods {
		to := &pods[i]
		same := to.Spec.NodeName == t.from
		if same == (to.Labels[groupLabel] == groups[0]) {
			continue
		}
		for _, ip := range to.Status.PodIPs {
			t.pair(to.Spec.NodeName, ip.IP, to.Spec.NodeName == next)
		}
	}
	for i := range nodes {
		for _, a := range nodes[i].Status.Addresses {
			if a.Type == corev1.NodeInternalIP && hasFamily(from, a.Address) {
				t.add(Nodes+" "+nodes[i].Name, Probe{Reach, join(a.Address, kubeletPort)})
			}
		}
	}
	for _, ip := range services {
		if hasFamily(from, ip) {
			t.add(Services, Probe{TCP, join(ip, Port)})
		}
	}
	for _, name := range names {
		t.add(Names, Probe{Name, name})
	}
	for _, to := range outside {
		if !otherFamily(from, to) {
			t.add(World, Probe{Reach, to})
		}
	}
	return t
}

// otherFamily tells whether ADDRESS:PORT is of a family of which a pod has no address; a
// name is of any.
func otherFamily(p *corev1.Pod, to string) bool {
	at, err := netip.ParseAddrPort(to)
	return err == nil && !hasFamily(p, at.Addr().Unmap().String())
}

// foreign says which of the hosts outside no pod tries.
func foreign(pods []corev1.Pod, outside []string) (skipped []string) {
	for _, to := range outside {
		if !slices.ContainsFunc(pods, func(p corev1.Pod) bool { return !otherFamily(&p, to) }) {
			skipped = append(skipped, to+": no pod has an address of its family")
		}
	}
	return skipped
}

// kubeletPort is where something listens on a node; if not, its kernel says so.
const kubeletPort = 10250

// pair has all kinds of packets go to a pod, and much of it to one of them.
func (t *task) pair(node, ip string, much bool) {
	kinds := []Kind{TCP, UDP, MTU}
	for _, kind := range kinds {
		t.add(node, Probe{kind, join(ip, Port)})
	}
	t.add(node, Probe{Large, join(ip, FragmentPort)})
	if much {
		t.add(node, Probe{Bulk, join(ip, Port)})
	}
}

func (t *task) add(target string, p Probe) {
	t.probes, t.targets = append(t.probes, p), append(t.targets, target)
}

func join(ip string, port uint16) string {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return ip
	}
	return netip.AddrPortFrom(addr, port).String()
}

// hasFamily tells whether a pod has an address of the family of another.
func hasFamily(p *corev1.Pod, ip string) bool {
	to, err := netip.ParseAddr(ip)
	return err == nil && slices.ContainsFunc(p.Status.PodIPs, func(own corev1.PodIP) bool {
		addr, err := netip.ParseAddr(own.IP)
		return err == nil && addr.Is4() == to.Is4()
	})
}
