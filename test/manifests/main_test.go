// Package manifests holds the Helm chart and the kustomize files to each other and to a real API server: they render the
// same objects, the server takes every one, and the admission policies stop the attacks that they describe, and nothing
// else.
package manifests

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/plainroute/plainroute/test/apiserver"
	"github.com/plainroute/plainroute/test/testutil"
)

// namespace is where both install to.
const namespace = "plainroute-system"

var (
	root = filepath.Join("..", "..")
	// namespaceFile is the first file of an install by Helm.
	namespaceFile = filepath.Join(root, "charts", "plainroute", "namespace.yaml")
	// missing is why nothing can be tested here.
	missing error
	server  *apiServer
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if missing = errors.Join(apiserver.Check(), testutil.Present(tool("helm"), tool("kustomize"))); missing != nil {
		return m.Run()
	}
	s, err := startServer()
	if err != nil {
		fmt.Fprintln(os.Stderr, "manifests:", err)
		return 1
	}
	defer s.Stop()
	server = s
	return m.Run()
}

func needed(t *testing.T) {
	t.Helper()
	if missing != nil {
		t.Skipf("%v; `hack/binaries.sh k8s helm kustomize` makes it", missing)
	}
}

func tool(name string) string { return filepath.Join(root, "bin", "tools", name) }

// restricted makes a cluster enforce Pod Security in namespaces without labels of it.
const restricted = `
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
  - name: PodSecurity
    configuration:
      apiVersion: pod-security.admission.config.k8s.io/v1
      kind: PodSecurityConfiguration
      defaults: {enforce: restricted, enforce-version: latest}
`

// apiServer is a real one, with the authorizers and the admission of a real cluster that is strict about pods.
type apiServer struct {
	*apiserver.ControlPlane
	dynamic *dynamic.DynamicClient
}

func startServer() (*apiServer, error) {
	dir, err := os.MkdirTemp("", "manifests")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	admission := filepath.Join(dir, "admission.yaml")
	if err := os.WriteFile(admission, []byte(restricted), 0o600); err != nil {
		return nil, err
	}
	s := &apiServer{}
	s.ControlPlane, err = apiserver.StartControlPlane(apiserver.Options{
		RestrictNodes: true, Flags: map[string]string{"admission-control-config-file": admission},
	})
	if err != nil {
		return nil, err
	}
	if err := s.prepare(); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

func (s *apiServer) prepare() error {
	var err error
	if s.dynamic, err = dynamic.NewForConfig(s.Config); err != nil {
		return err
	}
	if _, err = envtest.InstallCRDs(s.Config, envtest.CRDInstallOptions{Paths: []string{"testdata/operator_crds.yaml"}}); err != nil {
		return err
	}
	content, err := os.ReadFile(namespaceFile)
	if err != nil {
		return err
	}
	var made corev1.Namespace
	if err := yaml.UnmarshalStrict(content, &made); err != nil {
		return err
	}
	_, err = s.Client.CoreV1().Namespaces().Create(context.Background(), &made, metav1.CreateOptions{})
	return err
}
