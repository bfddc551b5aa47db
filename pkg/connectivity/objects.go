package connectivity

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/kubernetes"

	"github.com/plainroute/plainroute/pkg/topology"
)

const (
	managedByLabel = "app.kubernetes.io/managed-by"
	managedBy      = "plainroute-check"
	nameLabel      = "app.kubernetes.io/name"
	groupLabel     = "plainroute-check/group"
	service        = "responder"
)

// groups are two pods a node, so that two of one node can speak to each other.
var groups = []string{"a", "b"}

// nobody is a user that owns nothing.
const nobody = 65532

func objectLabels(group string) map[string]string {
	labels := map[string]string{nameLabel: managedBy, managedByLabel: managedBy}
	if group != "" {
		labels[groupLabel] = group
	}
	return labels
}

// namespaceObject is confined as far as Pod Security Standards go: the pods need nothing.
// Its name is ours, so that it is known also where no answer came.
func namespaceObject() *corev1.Namespace {
	labels := objectLabels("")
	labels["pod-security.kubernetes.io/enforce"] = "restricted"
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: managedBy + "-" + rand.String(8), Labels: labels}}
}

// daemonSet has a pod on each node that can have one, or on some.
func daemonSet(group, image string, pull corev1.PullPolicy, nodes []string) *appsv1.DaemonSet {
	set := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: service + "-" + group, Labels: objectLabels(group)},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: objectLabels(group)},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: objectLabels(group)}, Spec: podSpec(image, pull)},
		},
	}
	set.Spec.Template.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: selection(nodes),
		},
	}}
	return set
}

// selection leaves virtual nodes out, and, where some were drawn, all others. Those go by
// the Node's name, of which a term takes one: the label kubernetes.io/hostname may be
// another's too.
func selection(drawn []string) []corev1.NodeSelectorTerm {
	if drawn == nil {
		var own []corev1.NodeSelectorRequirement
		virtuals := topology.VirtualLabels()
		for _, key := range slices.Sorted(maps.Keys(virtuals)) {
			own = append(own, corev1.NodeSelectorRequirement{Key: key, Operator: corev1.NodeSelectorOpNotIn, Values: virtuals[key]})
		}
		return []corev1.NodeSelectorTerm{{MatchExpressions: own}}
	}
	var terms []corev1.NodeSelectorTerm
	for _, name := range drawn {
		terms = append(terms, corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{
			{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{name}},
		}})
	}
	return terms
}

func podSpec(image string, pull corev1.PullPolicy) corev1.PodSpec {
	no, yes, user, grace := false, true, int64(nobody), int64(1)
	return corev1.PodSpec{
		AutomountServiceAccountToken: &no, EnableServiceLinks: &no, TerminationGracePeriodSeconds: &grace,
		NodeSelector: map[string]string{corev1.LabelOSStable: "linux"},
		Tolerations:  []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		SecurityContext: &corev1.PodSecurityContext{
			RunAsNonRoot: &yes, RunAsUser: &user, RunAsGroup: &user,
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		Containers: []corev1.Container{{
			Name: service, Image: image, ImagePullPolicy: pull, Args: []string{"responder"},
			SecurityContext: &corev1.SecurityContext{
				AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
				Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			},
			// From within the pod: whether the node reaches it is for a probe to find out.
			ReadinessProbe: &corev1.Probe{
				ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/plainroute", "responder", "--ready"}}},
				PeriodSeconds: 1, TimeoutSeconds: 5, FailureThreshold: 30,
			},
			Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("32Mi")},
				Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("128Mi")},
			},
		}},
	}
}

// serviceObject has an address of each family that the cluster has.
func serviceObject() *corev1.Service {
	families := corev1.IPFamilyPolicyPreferDualStack
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: service, Labels: objectLabels("")},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{nameLabel: managedBy}, IPFamilyPolicy: &families,
			Ports: []corev1.ServicePort{{Name: "http", Port: Port, TargetPort: intstr.FromInt32(Port)}},
		},
	}
}

// deploy makes all objects, and tells their namespace as soon as there is one.
func (r *Run) deploy(ctx context.Context) (namespace string, err error) {
	wanted := namespaceObject()
	if err := r.create(ctx, func(ctx context.Context) error {
		_, err := r.Client.CoreV1().Namespaces().Create(ctx, wanted, metav1.CreateOptions{})
		return err
	}); err != nil {
		if apierrors.ReasonForError(err) == metav1.StatusReasonUnknown {
			namespace = wanted.Name // no answer came: it may be there
		}
		return namespace, fmt.Errorf("making a namespace for the test: %w", err)
	}
	namespace = wanted.Name
	for _, group := range groups {
		if err := r.create(ctx, func(ctx context.Context) error {
			_, err := r.Client.AppsV1().DaemonSets(namespace).Create(ctx, daemonSet(group, r.Image, r.Pull, r.sampled), metav1.CreateOptions{})
			return err
		}); err != nil {
			return namespace, fmt.Errorf("making the test's pods: %w", err)
		}
	}
	if err := r.create(ctx, func(ctx context.Context) error {
		_, err := r.Client.CoreV1().Services(namespace).Create(ctx, serviceObject(), metav1.CreateOptions{})
		return err
	}); err != nil {
		return namespace, fmt.Errorf("making the test's Service: %w", err)
	}
	return namespace, nil
}

// Leftovers are the namespaces of runs that were not removed.
func Leftovers(ctx context.Context, client kubernetes.Interface) ([]string, error) {
	list, err := client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{LabelSelector: managedByLabel + "=" + managedBy})
	if err != nil {
		return nil, fmt.Errorf("listing namespaces: %w", err)
	}
	names := make([]string, 0, len(list.Items))
	for i := range list.Items {
		names = append(names, list.Items[i].Name)
	}
	return names, nil
}

// Remove takes a namespace away with all that is in it, and waits until it is gone. The
// pods go first: a namespace that meets them on its way out waits for many seconds.
func Remove(ctx context.Context, client kubernetes.Interface, namespace string) error {
	if err := endPods(ctx, client, namespace); err != nil && ctx.Err() != nil {
		return fmt.Errorf("removing the namespace %s: %w", namespace, err)
	} // else the namespace takes them with it all the same
	err := poll(ctx, Patience, func(ctx context.Context) (gone bool, err error) {
		err = client.CoreV1().Namespaces().Delete(ctx, namespace, metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		if apierrors.IsConflict(err) { // it is on its way out
			err = nil
		}
		return false, err
	})
	if err != nil {
		return fmt.Errorf("removing the namespace %s: %w", namespace, err)
	}
	return nil
}

// podsEnd is longer than pods take to end that are told to.
const podsEnd = 15 * time.Second

// endPods ends the pods. Those of a kubelet that is away are taken out of the API: it
// ends none, and they would hold the namespace for ever.
func endPods(ctx context.Context, client kubernetes.Interface, namespace string) error {
	err := insist(ctx, Patience, func(ctx context.Context) error {
		return client.AppsV1().DaemonSets(namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{})
	})
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, podsEnd)
	defer cancel()
	err = poll(limited, Patience, func(ctx context.Context) (bool, error) {
		pods, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{Limit: 1})
		return err == nil && len(pods.Items) == 0, err
	})
	if err == nil {
		return nil
	}
	return insist(ctx, Patience, func(ctx context.Context) error {
		now := int64(0)
		return client.CoreV1().Pods(namespace).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{})
	})
}
