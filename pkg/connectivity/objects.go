package connectivity

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/rand"

	"github.com/plainroute/plainroute/pkg/kube"
	"github.com/plainroute/plainroute/pkg/topology"
)

const (
	managedByLabel = "app.kubernetes.io/managed-by"
	managedBy      = "plainroute-check"
	nameLabel      = "app.kubernetes.io/name"
	groupLabel     = "plainroute-check/group"
	service        = "responder"
)

// groups are the two pods of each node, so that pods of one node can probe each other.
var groups = []string{"a", "b"}

// unprivileged is a user that owns no files.
const unprivileged = 65532

func objectLabels(group string) map[string]string {
	labels := map[string]string{nameLabel: managedBy, managedByLabel: managedBy}
	if group != "" {
		labels[groupLabel] = group
	}
	return labels
}

// namespaceObject chooses the name here, so that it is known if the response is lost.
func namespaceObject() *corev1.Namespace {
	labels := objectLabels("")
	labels["pod-security.kubernetes.io/enforce"] = "restricted"
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: managedBy + "-" + rand.String(8), Labels: labels}}
}

// daemonSet has a pod on each node that can have one, or on the named ones.
func daemonSet(group, image string, pull corev1.PullPolicy, nodes []string) *appsv1.DaemonSet {
	pod := podSpec(image, pull)
	pod.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: selection(nodes)},
	}}
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: service + "-" + group, Labels: objectLabels(group)},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: objectLabels(group)},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: objectLabels(group)}, Spec: pod},
		},
	}
}

// selection excludes virtual nodes, or selects the sampled ones by the Node's name, one term each,
// because the label kubernetes.io/hostname may not be unique.
func selection(sampled []string) []corev1.NodeSelectorTerm {
	if sampled == nil {
		return []corev1.NodeSelectorTerm{topology.RealNodes()}
	}
	var terms []corev1.NodeSelectorTerm
	for _, name := range sampled {
		terms = append(terms, corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{
			{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{name}},
		}})
	}
	return terms
}

func podSpec(image string, pull corev1.PullPolicy) corev1.PodSpec {
	no, yes, user, grace := false, true, int64(unprivileged), int64(1)
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
			// Inside the pod, because probes test whether the node reaches it.
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

// deploy creates all objects. It returns the namespace even if a later step fails.
func (r *Run) deploy(ctx context.Context) (string, error) {
	namespace := namespaceObject()
	if err := create(ctx, r.RetryBudget, r.Client.Namespaces().Create, namespace); err != nil {
		if apierrors.ReasonForError(err) != metav1.StatusReasonUnknown {
			namespace.Name = "" // without a response it may exist
		}
		return namespace.Name, fmt.Errorf("creating a namespace for the test: %w", err)
	}
	for _, group := range groups {
		set := daemonSet(group, r.Image, r.Pull, r.sampled)
		if err := create(ctx, r.RetryBudget, r.Client.DaemonSets(namespace.Name).Create, set); err != nil {
			return namespace.Name, fmt.Errorf("creating the test's pods: %w", err)
		}
	}
	if err := create(ctx, r.RetryBudget, r.Client.Services(namespace.Name).Create, serviceObject()); err != nil {
		return namespace.Name, fmt.Errorf("creating the test's Service: %w", err)
	}
	return namespace.Name, nil
}

// Leftovers returns the namespaces of earlier runs that were not removed.
func Leftovers(ctx context.Context, client *kube.Client) ([]string, error) {
	list, err := client.Namespaces().List(ctx, metav1.ListOptions{LabelSelector: managedByLabel + "=" + managedBy})
	if err != nil {
		return nil, fmt.Errorf("listing namespaces: %w", err)
	}
	names := make([]string, 0, len(list.Items))
	for i := range list.Items {
		names = append(names, list.Items[i].Name)
	}
	return names, nil
}

// Remove deletes a namespace with its content, and waits until it is gone. It deletes the pods
// first, because a namespace with running pods takes many seconds.
func Remove(ctx context.Context, client *kube.Client, namespace string) error {
	if err := endPods(ctx, client, namespace); err != nil && ctx.Err() != nil {
		return fmt.Errorf("removing the namespace %s: %w", namespace, err)
	} // otherwise deleting the namespace ends them
	err := poll(ctx, RetryBudget, func(ctx context.Context) (gone bool, err error) {
		err = client.Namespaces().Delete(ctx, namespace, metav1.DeleteOptions{})
		if gone = apierrors.IsNotFound(err); gone || apierrors.IsConflict(err) { // it is gone, or being deleted
			err = nil
		}
		return gone, err
	})
	if err != nil {
		return fmt.Errorf("removing the namespace %s: %w", namespace, err)
	}
	return nil
}

// endPods deletes the pods, in the end by force: a kubelet that is away never confirms the
// deletion, and the namespace would stay forever.
func endPods(ctx context.Context, client *kube.Client, namespace string) error {
	err := retry(ctx, RetryBudget, func(ctx context.Context) error {
		return client.DaemonSets(namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{})
	})
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, 15*time.Second) // longer than pods take to end
	defer cancel()
	err = poll(limited, RetryBudget, func(ctx context.Context) (bool, error) {
		pods, err := client.Pods(namespace).List(ctx, metav1.ListOptions{Limit: 1})
		return err == nil && len(pods.Items) == 0, err
	})
	if err == nil {
		return nil
	}
	return retry(ctx, RetryBudget, func(ctx context.Context) error {
		now := int64(0)
		return client.Pods(namespace).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{})
	})
}
