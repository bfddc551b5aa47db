package checks

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/plainroute/plainroute/pkg/kube"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// player plays the controllers' part, and the kubelets', with the namespaces of the test.
type player struct {
	client kubernetes.Interface
	tested *kube.Client // of the run
	// kubelet changes the status of a pod, which is ready otherwise.
	kubelet func(*corev1.Pod)
	// tenancy puts things into a new namespace.
	tenancy func(ctx context.Context, client kubernetes.Interface, namespace string)
	// webhook changes requests to the API server, as a mutating webhook does.
	webhook func(*corev1.Pod)
}

// play begins, with nodes of these names and all labeled with one hostname, and ends with the test.
func play(t *testing.T, names ...string) (*nodelab.Cluster, *player) {
	t.Helper()
	testutil.NeedSandbox(t)
	c, err := shared()
	testutil.Must(t, err)
	tested, err := kube.New(c.API.Config)
	testutil.Must(t, err)
	p := &player{client: c.Client(), tested: tested}
	for _, name := range names {
		p.addNode(t, name)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			p.turn(ctx) // the next turn repeats it after a failure
			time.Sleep(20 * time.Millisecond)
		}
	}()
	t.Cleanup(func() {
		p.nothingLeft(t)
		cancel()
		<-ended
	})
	return c, p
}

func (p *player) addNode(t *testing.T, name string) {
	t.Helper()
	nodes := p.client.CoreV1().Nodes()
	node, err := nodes.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: name, Labels: map[string]string{corev1.LabelOSStable: "linux", corev1.LabelHostname: "localhost"},
	}}, metav1.CreateOptions{})
	testutil.Must(t, err)
	t.Cleanup(func() { testutil.Must(t, nodes.Delete(context.Background(), name, metav1.DeleteOptions{})) })
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	_, err = nodes.UpdateStatus(t.Context(), node, metav1.UpdateOptions{})
	testutil.Must(t, err)
}

// nothingLeft checks that no namespace of the test is left, and removes any.
func (p *player) nothingLeft(t *testing.T) {
	t.Helper()
	for _, namespace := range p.namespaces(context.Background()) {
		t.Errorf("the namespace %s is left", namespace.Name)
		_ = p.client.CoreV1().Namespaces().Delete(context.Background(), namespace.Name, metav1.DeleteOptions{})
	}
	for end := time.Now().Add(limit); len(p.namespaces(context.Background())) > 0 && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
}

func (p *player) namespaces(ctx context.Context) []corev1.Namespace {
	list, err := p.client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/managed-by=plainroute-check"})
	if err != nil {
		return nil
	}
	return list.Items
}

func (p *player) turn(ctx context.Context) {
	nodes, err := p.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return
	}
	for _, namespace := range p.namespaces(ctx) {
		sets, err := p.client.AppsV1().DaemonSets(namespace.Name).List(ctx, metav1.ListOptions{})
		if err != nil {
			return
		}
		if namespace.DeletionTimestamp != nil {
			p.bury(ctx, &namespace)
			continue
		}
		if p.tenancy != nil {
			p.tenancy(ctx, p.client, namespace.Name)
		}
		p.collect(ctx, namespace.Name, sets.Items)
		for i := range sets.Items {
			for j := range nodes.Items {
				if selected(&sets.Items[i], &nodes.Items[j]) {
					p.place(ctx, &sets.Items[i], &nodes.Items[j])
				}
			}
		}
	}
}

// bury removes a terminating namespace, as the namespace controller does.
func (p *player) bury(ctx context.Context, namespace *corev1.Namespace) {
	p.collect(ctx, namespace.Name, nil)
	namespace.Spec.Finalizers = nil
	_, _ = p.client.CoreV1().Namespaces().Finalize(ctx, namespace, metav1.UpdateOptions{})
}

// collect takes the pods away whose DaemonSet is gone.
func (p *player) collect(ctx context.Context, namespace string, sets []appsv1.DaemonSet) {
	pods, err := p.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return
	}
	now := int64(0)
	for i := range pods.Items {
		if !slices.ContainsFunc(sets, func(s appsv1.DaemonSet) bool { return metav1.IsControlledBy(&pods.Items[i], &s) }) {
			_ = p.client.CoreV1().Pods(namespace).Delete(ctx, pods.Items[i].Name, metav1.DeleteOptions{GracePeriodSeconds: &now})
		}
	}
}

// place makes a node's pod of a DaemonSet, has it ready, and notes that it was refused.
func (p *player) place(ctx context.Context, set *appsv1.DaemonSet, node *corev1.Node) {
	template := set.Spec.Template.DeepCopy()
	pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	pod.Name, pod.Spec.NodeName = set.Name+"-"+node.Name, node.Name
	pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("DaemonSet"))}
	if p.webhook != nil {
		p.webhook(pod)
	}
	pod, err := p.client.CoreV1().Pods(set.Namespace).Create(ctx, pod, metav1.CreateOptions{})
	if ctx.Err() == nil && (apierrors.IsForbidden(err) || apierrors.IsInvalid(err)) {
		_, _ = p.client.CoreV1().Events(set.Namespace).Create(ctx, &corev1.Event{
			ObjectMeta:     metav1.ObjectMeta{Name: set.Name, Namespace: set.Namespace},
			InvolvedObject: corev1.ObjectReference{Kind: "DaemonSet", Name: set.Name, Namespace: set.Namespace},
			Reason:         "FailedCreate", Message: fmt.Sprintf("Error creating: %v", err), Type: corev1.EventTypeWarning,
		}, metav1.CreateOptions{})
	}
	if err != nil {
		return
	}
	pod.Status.PodIP = "10.244.0.9"
	pod.Status.PodIPs = []corev1.PodIP{{IP: pod.Status.PodIP}}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	if p.kubelet != nil {
		p.kubelet(pod)
	}
	_, _ = p.client.CoreV1().Pods(set.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
}

// selected is the part of the scheduler's rules that matters here: terms are alternatives, and a term is met by a node
// that meets all in it.
func selected(set *appsv1.DaemonSet, node *corev1.Node) bool {
	terms := set.Spec.Template.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	return slices.ContainsFunc(terms, func(term corev1.NodeSelectorTerm) bool {
		for _, r := range term.MatchFields {
			if r.Key != metav1.ObjectNameField || !meets(r, node.Name) {
				return false
			}
		}
		for _, r := range term.MatchExpressions {
			if !meets(r, node.Labels[r.Key]) {
				return false
			}
		}
		return true
	})
}

func meets(r corev1.NodeSelectorRequirement, value string) bool {
	return slices.Contains(r.Values, value) == (r.Operator == corev1.NodeSelectorOpIn)
}

// recover has all pods that are there ready.
func (p *player) recover(ctx context.Context) {
	for _, namespace := range p.namespaces(ctx) {
		pods, err := p.client.CoreV1().Pods(namespace.Name).List(ctx, metav1.ListOptions{})
		if err != nil {
			return
		}
		for i := range pods.Items {
			pods.Items[i].Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
			_, _ = p.client.CoreV1().Pods(namespace.Name).UpdateStatus(ctx, &pods.Items[i], metav1.UpdateOptions{})
		}
	}
}
