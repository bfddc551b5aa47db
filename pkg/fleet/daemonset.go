package fleet

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/pager"

	"github.com/plainroute/plainroute/pkg/kube"
	"github.com/plainroute/plainroute/pkg/text"
)

// defaultNamespaces are searched for the agents' DaemonSet unless a namespace is given. Only the
// cluster's administrators write there, while every tenant can create a DaemonSet with our label in
// a namespace of its own.
var defaultNamespaces = []string{metav1.NamespaceSystem, "plainroute-system"}

// ChoiceError is returned if nothing shows which DaemonSet is the agents'. Candidates are those with
// the agents' label, as NAMESPACE/NAME.
type ChoiceError struct{ Candidates []string }

func (e *ChoiceError) Error() string {
	return fmt.Sprintf("which agents are meant is not certain: DaemonSets with the label %s are %s, and any tenant can create one in its own namespace; give the agents' namespace: --namespace", agents, text.Some(e.Candidates, len(e.Candidates), 5))
}

// DaemonSets returns the agents' DaemonSets, all of one namespace: the given one, else the default
// namespace that has any. It returns none if there are none in the cluster, and a ChoiceError if
// both default namespaces have one, or only other namespaces do.
func DaemonSets(ctx context.Context, client *kube.Client, namespace string) ([]appsv1.DaemonSet, error) {
	if namespace != "" {
		return listSets(ctx, client, namespace)
	}
	var found []appsv1.DaemonSet
	var refused error
	for _, n := range defaultNamespaces {
		sets, err := listSets(ctx, client, n)
		switch {
		case apierrors.IsForbidden(err):
			refused = err
		case err != nil:
			return nil, err
		}
		found = append(found, sets...)
	}
	if len(found) == 0 {
		elsewhere, err := listSets(ctx, client, metav1.NamespaceAll)
		if len(elsewhere) > 0 {
			return nil, choiceOf(elsewhere)
		}
		if apierrors.IsForbidden(err) { // the default namespaces have to do
			err = nil
		}
		return nil, cmp.Or(err, refused)
	}
	if slices.ContainsFunc(found, func(s appsv1.DaemonSet) bool { return s.Namespace != found[0].Namespace }) {
		return nil, choiceOf(found)
	}
	return found, nil
}

func choiceOf(sets []appsv1.DaemonSet) *ChoiceError {
	e := &ChoiceError{}
	for i := range sets {
		e.Candidates = append(e.Candidates, sets[i].Namespace+"/"+sets[i].Name)
	}
	return e
}

// listSets returns the DaemonSets whose pods have the agent's container: other objects installed
// with the agents have the label, too.
func listSets(ctx context.Context, client *kube.Client, namespace string) ([]appsv1.DaemonSet, error) {
	var sets []appsv1.DaemonSet
	err := Each(ctx, client.DaemonSets(namespace).List, metav1.ListOptions{LabelSelector: agents}, func(s *appsv1.DaemonSet) {
		if agentContainer(&s.Spec.Template.Spec) != nil {
			sets = append(sets, *s)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("listing the agents' DaemonSets: %w", err)
	}
	return sets, nil
}

// AgentImage returns the image that the agents of a DaemonSet run, and when it is pulled.
func AgentImage(set *appsv1.DaemonSet) (string, corev1.PullPolicy) {
	c := agentContainer(&set.Spec.Template.Spec)
	return c.Image, c.ImagePullPolicy
}

// Each lists objects page by page, because a large cluster has 5,000 Nodes of 10 KiB and more, and
// passes each to use, which may change and keep it.
func Each[L runtime.Object, O any](ctx context.Context, list func(context.Context, metav1.ListOptions) (L, error), options metav1.ListOptions, use func(*O)) error {
	pages := pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		return list(ctx, options)
	})
	pages.PageBufferSize = 0
	return pages.EachListItem(ctx, options, func(o runtime.Object) error {
		if one, ok := o.(any).(*O); ok {
			use(one)
		}
		return nil
	})
}
