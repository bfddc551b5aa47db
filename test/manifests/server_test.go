package manifests

import (
	"context"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"

	"github.com/plainroute/plainroute/test/testutil"
)

// everything turns on all features that are off by default.
var everything = []string{
	`clusterCIDR=["10.244.0.0/16"]`, "nodeCondition=true", `startupTaint="plainroute/starting"`, "serviceCIDRObjects=true", "metrics.enabled=true",
	"podMonitor.enabled=true", `podMonitor.metricRelabelings=[{"action":"keep"}]`, "prometheusRule.enabled=true", "grafanaDashboard.enabled=true", "dacOverride=true", `seLinuxOptions={"type":"spc_t"}`, `k8sServiceHost="192.168.1.1"`,
	"installCNI.force=true", `image.pullSecrets=["one"]`, `podAnnotations={"a":"b"}`, `podLabels={"c":"d"}`, `extraArgs=["--mtu=1450"]`, "healthPort=9999", `extraEnv=[{"name":"GOGC","value":"50"}]`,
}

// A real API server accepts every object without a warning about a field or about an expression of
// a policy.
func TestServerTakesAll(t *testing.T) {
	needed(t)
	ctx := testutil.Within(t, time.Minute)
	for name, all := range map[string][]*unstructured.Unstructured{
		"Helm, default":      helm(t, `clusterCIDR=["10.244.0.0/16"]`),
		"Helm, everything":   helm(t, everything...),
		"kustomize, router":  kustomize(t, choice{resources: []string{"samples/router"}}),
		"kustomize, viewer":  kustomize(t, choice{resources: []string{"samples/viewer"}}),
		"kustomize, k3s":     kustomize(t, choice{resources: []string{"samples/k3s"}}),
		"kustomize, rule":    kustomize(t, choice{resources: []string{"samples/node-readiness"}}),
		"kustomize, default": kustomize(t, choice{resources: []string{"default"}, components: []string{"node-condition", "startup-taint", "metrics"}}),
		"kustomize, remove":  kustomize(t, choice{resources: []string{"uninstall"}}),
	} {
		t.Run(name, func(t *testing.T) {
			for _, o := range all {
				if err := server.apply(ctx, o, metav1.DryRunAll); err != nil {
					t.Errorf("%s %s: %v", o.GetKind(), o.GetName(), err)
				}
			}
		})
	}
}

// apply is `kubectl apply --server-side --validate=strict`.
func (s *apiServer) apply(ctx context.Context, o *unstructured.Unstructured, dryRun ...string) error {
	resource, err := s.resource(o)
	if err != nil {
		return err
	}
	content, err := o.MarshalJSON()
	if err != nil {
		return err
	}
	force := true
	_, err = resource.Patch(ctx, o.GetName(), "application/apply-patch+yaml", content, metav1.PatchOptions{
		DryRun: dryRun, FieldManager: "test", Force: &force, FieldValidation: metav1.FieldValidationStrict,
	})
	return err
}

func (s *apiServer) resource(o *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(s.Client.Discovery()))
	mapping, err := mapper.RESTMapping(o.GroupVersionKind().GroupKind(), o.GroupVersionKind().Version)
	if err != nil {
		return nil, err
	}
	return s.dynamic.Resource(mapping.Resource).Namespace(o.GetNamespace()), nil
}
