package manifests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/test/testutil"
)

// A controller, not the API server, checks the types in an expression, and reports errors in the policy's status only:
// without this test a misspelled field would show when the policy denies a request because of it.
func TestExpressionsFitTypes(t *testing.T) {
	needed(t)
	manager := filepath.Join(root, "bin", "e2e", "kube-controller-manager")
	if _, err := os.Stat(manager); err != nil {
		t.Skipf("%v; `hack/binaries.sh kubelets` makes it", err)
	}
	ctx := testutil.Within(t, 2*time.Minute)
	waiting := map[string]bool{}
	for _, o := range helm(t, everything...) {
		if o.GetKind() == "ValidatingAdmissionPolicy" {
			testutil.Must(t, server.apply(ctx, o))
			t.Cleanup(func() { remove(t, o) })
			waiting[o.GetName()] = true
		}
	}
	if len(waiting) != 3 {
		t.Fatalf("there are policies %v; want three", waiting)
	}
	startManager(t, manager)
	testutil.Must(t, testutil.Poll(ctx, 100*time.Millisecond, func() error {
		policies, err := server.Client.AdmissionregistrationV1().ValidatingAdmissionPolicies().List(ctx, metav1.ListOptions{})
		testutil.Must(t, err)
		for _, policy := range policies.Items {
			if !waiting[policy.Name] || policy.Status.TypeChecking == nil {
				continue
			}
			delete(waiting, policy.Name)
			for _, warning := range policy.Status.TypeChecking.ExpressionWarnings {
				t.Errorf("policy %s, %s: %s", policy.Name, warning.FieldRef, warning.Warning)
			}
		}
		if len(waiting) > 0 {
			return fmt.Errorf("the types of policies %v are not checked yet", waiting)
		}
		return nil
	}))
}

// startManager runs the one controller that looks at policies.
func startManager(t *testing.T, path string) {
	t.Helper()
	content, err := server.Admin().KubeConfig()
	testutil.Must(t, err)
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	testutil.Must(t, os.WriteFile(kubeconfig, content, 0o600))
	cmd := exec.CommandContext(t.Context(), path, "--kubeconfig="+kubeconfig, "--leader-elect=false",
		"--secure-port=0", "--controllers=validatingadmissionpolicy-status-controller")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	testutil.Must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Wait() })
}
