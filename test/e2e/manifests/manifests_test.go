package manifests

import (
	"errors"
	"io"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"

	"github.com/plainroute/plainroute/test/apiserver"
	"github.com/plainroute/plainroute/test/testutil"
)

// TestAccepted applies both manifests to an API server with the Service ranges of the tests' cluster; twice, as on a
// second run.
func TestAccepted(t *testing.T) {
	config := apiserver.ControlPlaneForTest(t, apiserver.Options{
		Flags: map[string]string{"service-cluster-ip-range": "10.96.0.0/16,fd00:10:96::/112"},
	}).Config
	client, err := dynamic.NewForConfig(config)
	testutil.Must(t, err)
	kinds, err := discovery.NewDiscoveryClientForConfig(config)
	testutil.Must(t, err)
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(kinds))
	for range 2 {
		for _, object := range append(objects(t, CoreDNS), objects(t, Ingress)...) {
			if err := apply(t, client, mapper, object); err != nil {
				t.Errorf("applying %s %s: %v", object.GetKind(), object.GetName(), err)
			}
		}
	}
}

func objects(t *testing.T, manifest string) (all []*unstructured.Unstructured) {
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(manifest), 4096)
	for {
		object := &unstructured.Unstructured{}
		switch err := decoder.Decode(object); {
		case errors.Is(err, io.EOF):
			return all
		case err != nil:
			t.Fatal(err)
		}
		all = append(all, object)
	}
}

// apply is strict: a field that the API server doesn't know is an error, not a warning.
func apply(t *testing.T, client dynamic.Interface, mapper meta.RESTMapper, object *unstructured.Unstructured) error {
	kind := object.GroupVersionKind()
	mapping, err := mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return err
	}
	patch, err := object.MarshalJSON()
	if err != nil {
		return err
	}
	options := metav1.PatchOptions{FieldManager: "test", FieldValidation: metav1.FieldValidationStrict}
	resource := client.Resource(mapping.Resource).Namespace(object.GetNamespace())
	_, err = resource.Patch(t.Context(), object.GetName(), "application/apply-patch+yaml", patch, options)
	return err
}
