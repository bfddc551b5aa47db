// Package manifests holds the Helm chart and the kustomize files to each other and to a real API server: they render the
// same objects, the server takes every one, and the admission policies stop what they are there to stop, and nothing
// else.
package manifests

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"
)

// namespace is where both install to.
const namespace = "plainroute-system"

var (
	root = filepath.Join("..", "..")
	// namespaceFile is what an install by Helm begins with.
	namespaceFile = filepath.Join(root, "charts", "plainroute", "namespace.yaml")
	// skipReason tells why nothing can be tested here.
	skipReason string
	server     *apiServer
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		assets = filepath.Join(root, "bin", "k8s")
	}
	for _, path := range []string{filepath.Join(assets, "etcd"), filepath.Join(assets, "kube-apiserver"), tool("helm"), tool("kustomize")} {
		if _, err := os.Stat(path); err != nil {
			skipReason = fmt.Sprintf("%v; `hack/binaries.sh k8s helm kustomize` makes it", err)
			return m.Run()
		}
	}
	s, err := startServer(assets)
	if err != nil {
		fmt.Fprintln(os.Stderr, "manifests:", err)
		return 1
	}
	defer s.stop()
	server = s
	return m.Run()
}

func needed(t *testing.T) {
	t.Helper()
	if skipReason != "" {
		t.Skip(skipReason)
	}
}

func tool(name string) string { return filepath.Join(root, "bin", "tools", name) }

// restricted has a cluster enforce Pod Security where a namespace does not say otherwise.
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
	plane   *envtest.ControlPlane
	config  *rest.Config
	admin   *kubernetes.Clientset
	dynamic *dynamic.DynamicClient
}

func startServer(assets string) (*apiServer, error) {
	s := &apiServer{plane: &envtest.ControlPlane{
		Etcd:      &envtest.Etcd{Path: filepath.Join(assets, "etcd"), StartTimeout: time.Minute},
		APIServer: &envtest.APIServer{Path: filepath.Join(assets, "kube-apiserver"), StartTimeout: 2 * time.Minute},
	}}
	dir, err := os.MkdirTemp("", "manifests")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	admission := filepath.Join(dir, "admission.yaml")
	if err := os.WriteFile(admission, []byte(restricted), 0o600); err != nil {
		return nil, err
	}
	s.plane.APIServer.Configure().Set("authorization-mode", "Node,RBAC").Append("enable-admission-plugins", "NodeRestriction").
		Set("admission-control-config-file", admission)
	if err := s.plane.Start(); err != nil {
		return nil, err
	}
	if err := s.prepare(); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func (s *apiServer) stop() {
	if err := s.plane.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stopping the API server:", err)
	}
}

func (s *apiServer) prepare() error {
	var err error
	if s.config, err = s.user("admin", "system:masters"); err != nil {
		return err
	}
	if s.admin, err = kubernetes.NewForConfig(s.config); err != nil {
		return err
	}
	if s.dynamic, err = dynamic.NewForConfig(s.config); err != nil {
		return err
	}
	if _, err = envtest.InstallCRDs(s.config, envtest.CRDInstallOptions{Paths: []string{"testdata/operator_crds.yaml"}}); err != nil {
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
	_, err = s.admin.CoreV1().Namespaces().Create(context.Background(), &made, metav1.CreateOptions{})
	return err
}

func (s *apiServer) user(name string, groups ...string) (*rest.Config, error) {
	user, err := s.plane.AddUser(envtest.User{Name: name, Groups: groups}, nil)
	if err != nil {
		return nil, err
	}
	config := user.Config()
	config.QPS = -1
	return config, nil
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
