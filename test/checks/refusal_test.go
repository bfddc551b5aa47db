package checks

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/plainroute/plainroute/pkg/connectivity"
	"github.com/plainroute/plainroute/test/testutil"
)

// An API server or kubelet that refuses the pods is named soon, with a remediation, and nothing is
// left.
func TestPodsRefused(t *testing.T) {
	for _, c := range []struct {
		name  string
		setup func(*testing.T, *player)
		want  []string
	}{
		{"by Pod Security, for what a webhook adds", func(_ *testing.T, p *player) {
			p.webhook = func(pod *corev1.Pod) { pod.Spec.HostNetwork = true }
		}, []string{"on node-1:", `violates PodSecurity "restricted:latest": host namespaces`, "admit pods"}},
		{"by a policy", policy, []string{"on node-1:", "ValidatingAdmissionPolicy 'known-images'", "no such image here", "admit pods"}},
		{"by a quota", quota, []string{"on node-1:", "exceeded quota: few", "admit pods"}},
		{"by kubelets without the image", func(_ *testing.T, p *player) {
			p.kubelet = func(pod *corev1.Pod) { noImage(pod) }
		}, []string{"on node-1:", "ImagePullBackOff", "no such host", "bring localhost/plainroute:1", "--image"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, p := play(t, "node-1", "node-2")
			c.setup(t, p)
			begin := time.Now()
			_, err := testRun(p).Do(t.Context())
			if took := time.Since(begin); err == nil || took > limit/2 {
				t.Fatalf("%v after %s: want it refused, and soon", err, took)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v: want %q in it", err, want)
				}
			}
		})
	}
}

// noImage sets the status that a kubelet reports for an image that it can't pull.
func noImage(pod *corev1.Pod) {
	pod.Status.Conditions = nil
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "responder", State: corev1.ContainerState{
		Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: `Back-off pulling image "localhost/plainroute:1": no such host`},
	}}}
}

// policy takes no pod whose image is ours, as clusters have that know their registries.
func policy(t *testing.T, p *player) {
	t.Helper()
	policies, bindings := p.client.AdmissionregistrationV1().ValidatingAdmissionPolicies(), p.client.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings()
	meta := metav1.ObjectMeta{Name: "known-images"}
	_, err := policies.Create(t.Context(), &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: meta, Spec: admissionv1.ValidatingAdmissionPolicySpec{
		MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
			Operations: []admissionv1.OperationType{admissionv1.Create},
			Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
		}}}},
		Validations: []admissionv1.Validation{{Expression: `!object.spec.containers.exists(c, c.image.startsWith("localhost/"))`, Message: "no such image here"}},
	}}, metav1.CreateOptions{})
	testutil.Must(t, err)
	t.Cleanup(func() { testutil.Must(t, policies.Delete(context.Background(), meta.Name, metav1.DeleteOptions{})) })
	_, err = bindings.Create(t.Context(), &admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: meta, Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
		PolicyName: meta.Name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
	}}, metav1.CreateOptions{})
	testutil.Must(t, err)
	t.Cleanup(func() {
		testutil.Must(t, bindings.Delete(context.Background(), meta.Name, metav1.DeleteOptions{}))
		testutil.AwaitTrue(t, "the policy has ended", func() bool { return !p.refuses(context.Background()) })
	})
	// The server compiles the policy some time after.
	testutil.AwaitTrue(t, "the policy refuses", func() bool { return p.refuses(context.WithoutCancel(t.Context())) })
}

// refuses reports whether the API server refuses a pod of an image such as ours.
func (p *player) refuses(ctx context.Context) bool {
	_, err := p.client.CoreV1().Pods(metav1.NamespaceDefault).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "probe"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "localhost/c"}}},
	}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	return err != nil
}

// quota gives each namespace of the test a quota of no pods, as an operator for tenants does.
func quota(t *testing.T, p *player) {
	t.Helper()
	none := corev1.ResourceList{corev1.ResourcePods: resource.MustParse("0")}
	p.tenancy = func(ctx context.Context, client kubernetes.Interface, namespace string) {
		made, err := client.CoreV1().ResourceQuotas(namespace).Create(ctx, &corev1.ResourceQuota{
			ObjectMeta: metav1.ObjectMeta{Name: "few"}, Spec: corev1.ResourceQuotaSpec{Hard: none},
		}, metav1.CreateOptions{})
		if err == nil {
			made.Status = corev1.ResourceQuotaStatus{Hard: none, Used: none}
			_, _ = client.CoreV1().ResourceQuotas(namespace).UpdateStatus(ctx, made, metav1.UpdateOptions{})
		}
	}
}

// A node that lacks the image is named, and the others are tested.
func TestOneNodeWithoutImage(t *testing.T) {
	_, p := play(t, "node-1", "node-2", "node-3")
	p.kubelet = func(pod *corev1.Pod) {
		if pod.Spec.NodeName == "node-2" {
			noImage(pod)
		}
	}
	result, err := testRun(p).Do(t.Context())
	testutil.Must(t, err)
	text := printed(t, result)
	if result.OK() || len(result.Nodes) != 2 || !strings.Contains(text, "node node-2: NodeAbsent: its pod is not ready: ImagePullBackOff") || !strings.Contains(text, "  remediation: bring localhost/plainroute:1 to the node") {
		t.Errorf("%s\nwant node-2 with the remediation", text)
	}
}

// A cluster of one node is tested on that node, and the result names what this leaves out.
func TestOneNode(t *testing.T) {
	_, p := play(t, "node-1")
	result, err := testRun(p).Do(t.Context())
	testutil.Must(t, err)
	text := printed(t, result)
	if !result.OK() || result.Probes == 0 || !strings.Contains(text, "Not tested: from node to node: only node-1 took part.") || !strings.Contains(text, "\n1 node, ") {
		t.Errorf("%s\nwant it to be well, and from node to node not tried", text)
	}
}

// A cluster without IPv4 is not asked for any.
func TestIPv6Alone(t *testing.T) {
	_, p := play(t, "node-1", "node-2")
	p.kubelet = func(pod *corev1.Pod) {
		pod.Status.PodIP = "fd00:10:244::9"
		pod.Status.PodIPs = []corev1.PodIP{{IP: pod.Status.PodIP}}
	}
	r := testRun(p)
	r.Outside = []string{"192.0.2.1:80", "[2001:db8::1]:80"}
	var asked bytes.Buffer
	r.Post = recorded(r.Post, &asked)
	result, err := r.Do(t.Context())
	testutil.Must(t, err)
	if want := "192.0.2.1:80: no pod has an address of its family"; !result.OK() || !slices.Contains(result.Skipped, want) {
		t.Errorf("%+v: want it to be well, and %q", result, want)
	}
	if all := asked.String(); !strings.Contains(all, "[fd00:10:244::9]:9473") || !strings.Contains(all, "[2001:db8::1]:80") || strings.Contains(all, `"192.`) || strings.Contains(all, `"10.`) {
		t.Errorf("pods try %s; want IPv6 alone", all)
	}
}

func printed(t *testing.T, r *connectivity.Result) string {
	t.Helper()
	var b bytes.Buffer
	testutil.Must(t, r.Print(&b))
	return b.String()
}
