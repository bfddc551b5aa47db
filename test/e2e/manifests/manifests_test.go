package manifests

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// TestAccepted applies both manifests to an API server with the Service ranges of the tests' cluster; twice, as who
// runs the tests again does.
func TestAccepted(t *testing.T) {
	config := apiServer(t)
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	kinds, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(kinds))
	for range 2 {
		for _, object := range append(objects(t, CoreDNS), objects(t, Ingress)...) {
			if err := apply(t, client, mapper, object); err != nil {
				t.Errorf("applying %s %s: %v", object.GetKind(), object.GetName(), err)
			}
		}
	}
}

// apiServer starts one, or skips the test where there is none to start.
func apiServer(t *testing.T) *rest.Config {
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		t.Skip("no API server: KUBEBUILDER_ASSETS is not set; `make test` sets it")
	}
	plane := &envtest.ControlPlane{
		Etcd:      &envtest.Etcd{Path: filepath.Join(assets, "etcd"), StartTimeout: time.Minute},
		APIServer: &envtest.APIServer{Path: filepath.Join(assets, "kube-apiserver"), StartTimeout: 2 * time.Minute},
	}
	plane.APIServer.Configure().Set("service-cluster-ip-range", "10.96.0.0/16,fd00:10:96::/112")
	if err := plane.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := plane.Stop(); err != nil {
			t.Error(err)
		}
	})
	admin, err := plane.AddUser(envtest.User{Name: "admin", Groups: []string{"system:masters"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return admin.Config()
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
