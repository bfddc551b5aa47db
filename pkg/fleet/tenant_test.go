package fleet

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/test/testutil"
)

// tenants may label their pods and DaemonSets as they like. None of them counts as an agent.
func (s *server) tenants(t *testing.T) {
	_, err := s.admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "tenant"}}, metav1.CreateOptions{})
	testutil.Must(t, err)
	all := s.user(t, "admin", "system:masters")
	liar := agentOn(t, "none", 0)
	theirs := s.daemonSet(t, "tenant")
	for name, forgery := range map[string]struct {
		namespace string
		owners    []metav1.OwnerReference
	}{
		"labels":        {"tenant", nil},
		"our-owner":     {"tenant", controlledBy(s.set)},
		"their-owner":   {"tenant", controlledBy(theirs)},
		"no-owner":      {namespace, nil},
		"other-owner":   {namespace, controlledBy(theirs)},
		"no-controller": {namespace, []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "DaemonSet", Name: s.set.Name, UID: s.set.UID}}},
		"other-kind":    {namespace, []metav1.OwnerReference{*metav1.NewControllerRef(s.set, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}},
	} {
		s.pod(t, forgery.namespace, name, "none", liar, up(), forgery.owners)
		s.pod(t, forgery.namespace, name+"-on-answers", "answers", liar, up(), forgery.owners)
	}
	for _, where := range []string{"", namespace} {
		wait(t, func() string { return rowsOf(t, s.survey(t, all, where, 5*time.Second)) },
			"answers: v1\n", "none: NoAgent: no agent runs here: the DaemonSet has no pod on this node")
	}
	s.choices(t, all, theirs)
}

// choices are refused where a tenant's DaemonSet could be taken for the agents'.
func (s *server) choices(t *testing.T, all *rest.Config, theirs *appsv1.DaemonSet) {
	refused := func(want ...string) {
		t.Helper()
		_, err := s.by(t, all, "", time.Second).Collect(t.Context())
		var choice *ChoiceError
		if !errors.As(err, &choice) || !slices.Equal(choice.Candidates, want) || !strings.Contains(err.Error(), "--namespace") {
			t.Errorf("got %v, want a choice of %q", err, want)
		}
	}
	system := s.daemonSet(t, metav1.NamespaceSystem)
	refused("kube-system/plainroute", "plainroute-system/plainroute")
	testutil.Must(t, s.admin.AppsV1().DaemonSets(system.Namespace).Delete(t.Context(), system.Name, metav1.DeleteOptions{}))
	testutil.Must(t, s.admin.AppsV1().DaemonSets(namespace).Delete(t.Context(), s.set.Name, metav1.DeleteOptions{}))
	for _, n := range []string{system.Namespace, namespace} {
		wait(t, func() string {
			_, err := s.admin.AppsV1().DaemonSets(n).Get(t.Context(), "plainroute", metav1.GetOptions{})
			return string(apierrors.ReasonForError(err))
		}, string(metav1.StatusReasonNotFound))
	}
	refused("tenant/plainroute")
	if got := rowsOf(t, s.survey(t, all, theirs.Namespace, time.Second)); !strings.Contains(got, "none: ") || strings.Contains(got, "none: NoAgent") {
		t.Errorf("the namespace that was asked for was not believed:\n%s", got)
	}
	testutil.Must(t, s.admin.AppsV1().DaemonSets(theirs.Namespace).Delete(t.Context(), theirs.Name, metav1.DeleteOptions{}))
	wait(t, func() string {
		c, err := s.by(t, all, "", time.Second).Collect(t.Context())
		if err != nil {
			return err.Error()
		}
		return rowsOf(t, c)
	}, "answers: NoAgent: no agent runs on any node: plainroute is not installed, or its DaemonSet lacks the label app.kubernetes.io/part-of=plainroute,app.kubernetes.io/component=agent; searched in: kube-system, plainroute-system")
}
