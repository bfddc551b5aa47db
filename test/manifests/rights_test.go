package manifests

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/plainroute/plainroute/test/testutil"
)

// The rights of each account in the cluster are those in docs/security.md, and grow only with
// optional features.
func TestRightsAreFew(t *testing.T) {
	needed(t)
	const events = "default: create patch events events.k8s.io"
	for _, test := range []struct {
		name   string
		values []string
		more   []string
	}{
		{name: "default", more: []string{events}},
		{name: "no Events", values: []string{"events=false"}},
		{name: "node condition", values: []string{"nodeCondition=true"}, more: []string{"cluster: patch nodes/status", events}},
		{name: "start-up taint", values: []string{`startupTaint="plainroute/starting"`}, more: []string{"cluster: patch nodes", events}},
		{name: "ServiceCIDRs", values: []string{"serviceCIDRObjects=true"}, more: []string{"cluster: list watch servicecidrs networking.k8s.io", events}},
		{name: "everything", values: everything, more: []string{"cluster: list watch servicecidrs networking.k8s.io", "cluster: patch nodes", "cluster: patch nodes/status", events}},
	} {
		t.Run(test.name, func(t *testing.T) {
			all := helm(t, append([]string{`clusterCIDR=["10.244.0.0/16"]`}, test.values...)...)
			want := slices.Sorted(slices.Values(append(test.more, "cluster: list watch nodes")))
			if diff := cmp.Diff(want, rightsOf(t, all, "plainroute")); diff != "" {
				t.Errorf("rights of agents, wanted (-) and rendered (+):\n%s", diff)
			}
			want = []string{
				"cluster: list nodes", "cluster: patch nodes/status",
				"plainroute-system: create delete get list daemonsets apps", "plainroute-system: list pods",
			}
			if diff := cmp.Diff(want, rightsOf(t, all, "plainroute-uninstall")); diff != "" {
				t.Errorf("rights of the uninstaller, wanted (-) and rendered (+):\n%s", diff)
			}
		})
	}
}

// rightsOf lists the rights that the bindings of a service account give it.
func rightsOf(t *testing.T, all []*unstructured.Unstructured, account string) []string {
	t.Helper()
	rules := map[string][]rbacv1.PolicyRule{}
	for _, o := range all {
		if strings.HasSuffix(o.GetKind(), "Role") {
			rules[o.GetKind()+o.GetNamespace()+o.GetName()] = as[rbacv1.ClusterRole](t, o).Rules
		}
	}
	var rights []string
	for _, o := range all {
		if !strings.HasSuffix(o.GetKind(), "RoleBinding") {
			continue
		}
		binding := as[rbacv1.RoleBinding](t, o)
		if binding.Subjects[0] != (rbacv1.Subject{Kind: "ServiceAccount", Name: account, Namespace: namespace}) || len(binding.Subjects) > 1 {
			continue
		}
		where := "cluster"
		if o.GetNamespace() != "" {
			where = o.GetNamespace()
		}
		for _, rule := range rules[binding.RoleRef.Kind+o.GetNamespace()+binding.RoleRef.Name] {
			words := slices.Concat(slices.Sorted(slices.Values(rule.Verbs)), rule.Resources, rule.APIGroups, rule.ResourceNames)
			rights = append(rights, where+": "+strings.TrimSpace(strings.Join(words, " ")))
		}
	}
	slices.Sort(rights)
	return rights
}

func as[T any](t *testing.T, o *unstructured.Unstructured) *T {
	t.Helper()
	object := new(T)
	testutil.Must(t, runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, object))
	return object
}

// pods are those that the objects lead to, by the objects' kinds and names.
func pods(t *testing.T, all []*unstructured.Unstructured) map[string]corev1.PodTemplateSpec {
	t.Helper()
	found := map[string]corev1.PodTemplateSpec{}
	for _, o := range all {
		name := o.GetKind() + " " + o.GetName()
		switch o.GetKind() {
		case "DaemonSet":
			found[name] = as[appsv1.DaemonSet](t, o).Spec.Template
		case "Job":
			found[name] = as[batchv1.Job](t, o).Spec.Template
		case "Pod":
			pod := as[corev1.Pod](t, o)
			found[name] = corev1.PodTemplateSpec{ObjectMeta: pod.ObjectMeta, Spec: pod.Spec}
		}
	}
	return found
}

// A container has no right on its node but those listed here.
func TestContainersAreConfined(t *testing.T) {
	needed(t)
	const agent, uninstall, test = "DaemonSet plainroute", "Job plainroute-uninstall", "Pod plainroute-test"
	usual := map[string]string{
		agent + ", install-cni": "as 0: /opt/cni/bin", agent + ", agent": "as 0: NET_ADMIN /etc/cni/net.d /run/plainroute /opt/cni/bin (to read) /proc/sys/net token (to read)",
		uninstall + ", uninstall": "as 65534:", test + ", test": "as 65534:",
	}
	overriding := map[string]string{
		agent + ", install-cni": "as 0: DAC_OVERRIDE /opt/cni/bin", agent + ", agent": "as 0: NET_ADMIN DAC_OVERRIDE /etc/cni/net.d /run/plainroute /opt/cni/bin (to read) /proc/sys/net token (to read)",
		uninstall + ", uninstall": "as 65534:", test + ", test": "as 65534:",
	}
	for _, one := range []struct {
		values []string
		want   map[string]string
	}{
		{[]string{`clusterCIDR=["10.244.0.0/16"]`}, usual},
		{everything, overriding},
	} {
		got := map[string]string{}
		for name, pod := range pods(t, helm(t, one.values...)) {
			if pod.Spec.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault || pod.Spec.HostPID || pod.Spec.HostIPC {
				t.Errorf("%s: another seccomp profile than the runtime's, or more of the host's namespaces than the network's", name)
			}
			for _, container := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
				got[name+", "+container.Name] = confinement(t, &pod.Spec, &container)
			}
		}
		if diff := cmp.Diff(one.want, got); diff != "" {
			t.Errorf("what containers have of their node, wanted (-) and rendered (+):\n%s", diff)
		}
	}
}

// confinement is a container's user, capabilities, and folders of the node.
func confinement(t *testing.T, pod *corev1.PodSpec, container *corev1.Container) string {
	t.Helper()
	context := container.SecurityContext
	if context.Privileged != nil || *context.AllowPrivilegeEscalation || !*context.ReadOnlyRootFilesystem ||
		!slices.Equal(context.Capabilities.Drop, []corev1.Capability{"ALL"}) {
		t.Errorf("container %s is not confined: %v", container.Name, context)
	}
	user := pod.SecurityContext.RunAsUser
	if context.RunAsUser != nil {
		user = context.RunAsUser
	}
	text := fmt.Sprintf("as %d:", *user)
	for _, capability := range context.Capabilities.Add {
		text += " " + string(capability)
	}
	for _, mount := range container.VolumeMounts {
		for _, volume := range pod.Volumes {
			if volume.Name == mount.Name {
				text += " " + what(&volume)
				if mount.ReadOnly {
					text += " (to read)"
				}
			}
		}
	}
	return text
}

// what returns the node's folder of a volume, "token" for the pod's credentials, else the volume's name.
func what(volume *corev1.Volume) string {
	if volume.HostPath != nil {
		return volume.HostPath.Path
	}
	if volume.Projected != nil && volume.Projected.Sources[0].ServiceAccountToken != nil {
		return "token"
	}
	return volume.Name
}

// Of the agents' pods the agent alone has credentials, where client-go looks for them, and they are
// those that the API server would give every container: a bound token that is renewed, the API
// server's CA, and the namespace.
func TestInstallCNIHasNoToken(t *testing.T) {
	needed(t)
	for name, all := range map[string][]*unstructured.Unstructured{
		"Helm":      helm(t, `clusterCIDR=["10.244.0.0/16"]`),
		"kustomize": kustomize(t, choice{resources: []string{"default"}}),
	} {
		spec := pods(t, all)["DaemonSet plainroute"].Spec
		if mounts := spec.AutomountServiceAccountToken; mounts == nil || *mounts {
			t.Errorf("%s: the API server gives all containers a token", name)
		}
		for _, container := range slices.Concat(spec.InitContainers, spec.Containers) {
			text := confinement(t, &spec, &container)
			if has := strings.Contains(text, " token (to read)"); has != (container.Name == "agent") {
				t.Errorf("%s: container %s has %s", name, container.Name, text)
			}
		}
		want := &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr.To(int64(3607))}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}, Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.namespace"}},
			}}},
		}}
		i := slices.IndexFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Projected != nil })
		if i < 0 {
			t.Fatalf("%s: the agent has no token", name)
		}
		if diff := cmp.Diff(want, spec.Volumes[i].Projected); diff != "" {
			t.Errorf("%s: the agent's credentials, wanted (-) and rendered (+):\n%s", name, diff)
		}
	}
}

// The namespace of config/namespace and of the chart admits all, the level below it and a namespace
// without labels in a strict cluster do not admit the agents, and the pod of `helm test` is
// admitted anywhere.
func TestPodSecurity(t *testing.T) {
	needed(t)
	ctx := testutil.Within(t, time.Minute)
	all := pods(t, helm(t, `clusterCIDR=["10.244.0.0/16"]`))
	labels := kustomize(t, choice{resources: []string{"namespace"}})[0].GetLabels()
	made, err := server.Client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
	testutil.Must(t, err)
	delete(made.Labels, "kubernetes.io/metadata.name")
	if diff := cmp.Diff(labels, made.Labels); diff != "" {
		t.Errorf("labels of the namespace of config/namespace (-) and of the chart's (+):\n%s", diff)
	}
	for _, test := range []struct {
		level    string
		labels   map[string]string
		admitted []string
	}{
		{"as-in-config", labels, []string{"DaemonSet plainroute", "Job plainroute-uninstall", "Pod plainroute-test"}},
		{"restricted-by-default", nil, []string{"Pod plainroute-test"}},
		{"baseline", map[string]string{"pod-security.kubernetes.io/enforce": "baseline"}, []string{"Pod plainroute-test"}},
		{"restricted", map[string]string{"pod-security.kubernetes.io/enforce": "restricted"}, []string{"Pod plainroute-test"}},
	} {
		_, err := server.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
			Name: test.level, Labels: test.labels,
		}}, metav1.CreateOptions{})
		testutil.Must(t, err)
		var admitted []string
		for name, template := range all {
			if err := admits(ctx, test.level, template); err == nil {
				admitted = append(admitted, name)
			} else if !strings.Contains(err.Error(), `violates PodSecurity "`+strings.TrimSuffix(test.level, "-by-default")) {
				t.Errorf("%s in %s: %v", name, test.level, err)
			}
		}
		slices.Sort(admitted)
		if diff := cmp.Diff(test.admitted, admitted); diff != "" {
			t.Errorf("namespace %s admits, wanted (-) and found (+):\n%s", test.level, diff)
		}
	}
}

func admits(ctx context.Context, namespace string, template corev1.PodTemplateSpec) error {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "try", Labels: template.Labels}, Spec: template.Spec}
	pod.Spec.ServiceAccountName = "any" // of which a projected token must be
	_, err := server.Client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	return err
}
