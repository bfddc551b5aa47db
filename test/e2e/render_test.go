package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/test/testutil"
)

const uninstallJob = productName + "-uninstall"

// render installs as users do who render charts and apply the result: `helm template | kubectl
// apply`, here over the release that is installed, with its values. That makes the hook's Job
// beside the agents. The Job refuses and logs why, no agent is restarted, and nothing is removed
// from any node. `helm uninstall` removes what is left of it.
func (s *story) render(ctx context.Context, t *testing.T) {
	h, isHelm := s.product.(helm)
	if !isHelm {
		t.Skip("kustomize has no hooks")
	}
	before, err := s.cluster.agents(ctx)
	testutil.Must(t, err)
	flows := s.startFlows(ctx, t)
	const pipe = `set -o pipefail; "$0" --namespace "$2" get values "$3" --output yaml |
		"$0" --namespace "$2" template "$3" "$4" --values - | "$1" apply --filename -`
	applied, err := output(ctx, "", "bash", "-c", pipe, tool("helm"), tool("kubectl"), productNamespace, productName, h.chart())
	testutil.Must(t, err)
	t.Logf("%s", applied)
	await(ctx, t, "the Job to refuse", s.cluster.refused)
	flows.run(ctx, t)
	flows.stop(ctx, t)
	testutil.Must(t, s.cluster.rolledOut(ctx))
	after, err := s.cluster.agents(ctx)
	testutil.Must(t, err)
	if names(before) != names(after) {
		t.Errorf("agents were %s and are %s", names(before), names(after))
	}
	// The pod of `helm test` is on the pod network: before an uninstall no such pod may be left.
	_, err = kubectl(ctx, "--namespace="+productNamespace, "delete", "pod", "--selector=app.kubernetes.io/component=test")
	testutil.Must(t, err)
}

func names(pods []corev1.Pod) string {
	var all []string
	for i := range pods {
		all = append(all, pods[i].Name)
	}
	return strings.Join(all, " ")
}

// refused returns nil once the Job that cleans has ended with 3, once, and has logged why.
func (c *cluster) refused(ctx context.Context) error {
	job, err := c.api.BatchV1().Jobs(productNamespace).Get(ctx, uninstallJob, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("getting the Job: %w", err)
	}
	if job.Status.Failed == 0 {
		return fmt.Errorf("the Job has not ended: %+v", job.Status)
	}
	pods, err := c.api.CoreV1().Pods(productNamespace).List(ctx, metav1.ListOptions{LabelSelector: "batch.kubernetes.io/job-name=" + uninstallJob})
	if err != nil || len(pods.Items) != 1 || len(pods.Items[0].Status.ContainerStatuses) != 1 {
		return fmt.Errorf("the Job has the pods %+v: %w", pods.Items, err)
	}
	pod := pods.Items[0]
	ended := pod.Status.ContainerStatuses[0].State.Terminated
	if ended == nil || ended.ExitCode != 3 {
		return fmt.Errorf("the Job's container is %+v; want it to end with 3", pod.Status.ContainerStatuses[0].State)
	}
	output, err := c.api.CoreV1().Pods(productNamespace).GetLogs(pod.Name, &corev1.PodLogOptions{}).DoRaw(ctx)
	if err != nil {
		return fmt.Errorf("reading the log of %s: %w", pod.Name, err)
	}
	if want := fmt.Sprintf("refused: DaemonSet %s in namespace %s runs agents", productName, productNamespace); !strings.Contains(string(output), want) {
		return fmt.Errorf("the Job logged %q; want %q", output, want)
	}
	return nil
}
