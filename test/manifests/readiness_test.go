package manifests

import (
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/plainroute/plainroute/test/testutil"
)

// The reporter of the Node Readiness Controller asks where the kubelet does, and writes the condition for which the rule waits.
func TestReadinessRule(t *testing.T) {
	needed(t)
	kinds := map[string]*unstructured.Unstructured{}
	for _, o := range kustomize(t, choice{resources: []string{"samples/node-readiness"}}) {
		kinds[o.GetKind()] = o
	}
	env := map[string]string{}
	for _, variable := range container(t, kinds["DaemonSet"]).Env {
		env[variable.Name] = variable.Value
	}
	conditions, _, err := unstructured.NestedSlice(kinds["NodeReadinessRule"].Object, "spec", "conditions")
	testutil.Must(t, err)
	if want := conditions[0].(map[string]any)["type"]; env["CONDITION_TYPE"] != want {
		t.Errorf("the reporter writes the condition %s, and the rule waits for %s", env["CONDITION_TYPE"], want)
	}
	for _, o := range helm(t, `clusterCIDR=["10.244.0.0/16"]`) {
		if o.GetKind() == "DaemonSet" {
			probe := container(t, o).ReadinessProbe.HTTPGet
			if want := fmt.Sprintf("http://%s:%s%s", probe.Host, probe.Port.String(), probe.Path); env["CHECK_ENDPOINT"] != want {
				t.Errorf("the reporter asks %s, and the kubelet %s", env["CHECK_ENDPOINT"], want)
			}
		}
	}
}

// container is the first one of a DaemonSet.
func container(t *testing.T, o *unstructured.Unstructured) corev1.Container {
	t.Helper()
	var set appsv1.DaemonSet
	testutil.Must(t, runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &set))
	return set.Spec.Template.Spec.Containers[0]
}
