package manifests

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// What the types of Nodes say of an expression is found out by a controller, not by the API server, and told in the
// policy's status only: a misspelled field is else noticed when somebody's request is refused for it.
func TestExpressionsFitTypes(t *testing.T) {
	needed(t)
	manager := filepath.Join(root, "bin", "e2e", "kube-controller-manager")
	if _, err := os.Stat(manager); err != nil {
		t.Skipf("%v; `hack/binaries.sh kubelets` makes it", err)
	}
	ctx := within(t, 2*time.Minute)
	waiting := map[string]bool{}
	for _, o := range helm(t, everything...) {
		if o.GetKind() == "ValidatingAdmissionPolicy" {
			must(t, server.apply(ctx, o))
			t.Cleanup(func() { remove(t, o) })
			waiting[o.GetName()] = true
		}
	}
	if len(waiting) != 3 {
		t.Fatalf("there are policies %v; want three", waiting)
	}
	startManager(t, manager)
	for len(waiting) > 0 {
		policies, err := server.admin.AdmissionregistrationV1().ValidatingAdmissionPolicies().List(ctx, metav1.ListOptions{})
		must(t, err)
		for _, policy := range policies.Items {
			if !waiting[policy.Name] || policy.Status.TypeChecking == nil {
				continue
			}
			delete(waiting, policy.Name)
			for _, warning := range policy.Status.TypeChecking.ExpressionWarnings {
				t.Errorf("policy %s, %s: %s", policy.Name, warning.FieldRef, warning.Warning)
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// startManager runs the one controller that looks at policies.
func startManager(t *testing.T, path string) {
	t.Helper()
	user, err := server.plane.AddUser(envtest.User{Name: "manager", Groups: []string{"system:masters"}}, nil)
	must(t, err)
	content, err := user.KubeConfig()
	must(t, err)
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, os.WriteFile(kubeconfig, content, 0o600))
	cmd := exec.CommandContext(t.Context(), path, "--kubeconfig="+kubeconfig, "--leader-elect=false",
		"--secure-port=0", "--controllers=validatingadmissionpolicy-status-controller")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Wait() })
}
