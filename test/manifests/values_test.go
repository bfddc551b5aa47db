package manifests

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/klog/v2"
	"sigs.k8s.io/yaml"

	"github.com/plainroute/plainroute/test/testutil"
)

// others has for each value one that is not the default, as JSON.
var others = map[string]string{
	"acceptAnyPodCIDR":             `true`,
	"admissionPolicy.enabled":      `false`,
	"affinity":                     `{"nodeAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[{"weight":1,"preference":{"matchExpressions":[{"key":"a","operator":"Exists"}]}}]}}`,
	"clusterCIDR":                  `["10.244.0.0/16","fd00:10:244::/48"]`,
	"cni.before":                   `["00-multus.conf"]`,
	"bridge":                       `"pods0"`,
	"cni.binDir":                   `"/other/bin"`,
	"cni.config":                   `"file"`,
	"cni.plugins":                  `[{"type":"bandwidth","capabilities":{"bandwidth":true}}]`,
	"cni.confDir":                  `"/other/net.d"`,
	"dacOverride":                  `true`,
	"encapsulation":                `"cross-subnet"`,
	"events":                       `false`,
	"extraArgs":                    `["--mtu=1450"]`,
	"extraVolumeMounts":            `[{"name":"more","mountPath":"/more"}]`,
	"extraVolumes":                 `[{"name":"more","emptyDir":{}}]`,
	"fullnameOverride":             `"routes"`,
	"extraEnv":                     `[{"name":"GOGC","value":"50"}]`,
	"firewallPlugin":               `true`,
	"grafanaDashboard.annotations": `{"grafana_folder":"Network"}`,
	"grafanaDashboard.enabled":     `true`,
	"grafanaDashboard.labels":      `{"dashboards":"yes"}`,
	"healthPort":                   `9999`,
	"ignoreNodes":                  `"type=virtual-kubelet"`,
	"image.digest":                 `"sha256:` + strings.Repeat("0123456789abcdef", 4) + `"`,
	"image.pullPolicy":             `"Always"`,
	"image.pullSecrets":            `["one","two"]`,
	"image.repository":             `"registry.example:5000/plainroute"`,
	"image.tag":                    `"2"`,
	"installCNI.enabled":           `false`,
	"installCNI.force":             `true`,
	"k8sServiceHost":               `"fd00:192:168:1::1"`,
	"k8sServicePort":               `443`,
	"livenessProbe":                `{"failureThreshold":9}`,
	"logFormat":                    `"json"`,
	"logLevel":                     `"debug"`,
	"masquerade.ipv4":              `false`,
	"masquerade.ipv6":              `false`,
	"metrics.enabled":              `true`,
	"metrics.port":                 `9999`,
	"mtu":                          `1400`,
	"nameOverride":                 `"routes"`,
	"nodeCIDRMaskSizeIPv4":         `25`,
	"nodeCIDRMaskSizeIPv6":         `"64-72"`,
	"nonMasqueradeCIDR":            `["172.16.0.0/12"]`,
	"offLink":                      `"gateway"`,
	"table":                        "100",
	"vxlan.port":                   `8472`,
	"vxlan.id":                     `7`,
	"nodeCIDR":                     `"192.168.1.0/24"`,
	"nodeCondition":                `true`,
	"nodeSelector":                 `{"pool":"a"}`,
	"podAnnotations":               `{"a":"b"}`,
	"podLabels":                    `{"c":"d"}`,
	"podMonitor.enabled":           `true`,
	"podMonitor.interval":          `"30s"`,
	"podMonitor.labels":            `{"e":"f"}`,
	"podMonitor.metricRelabelings": `[{"action":"keep"}]`,
	"priorityClassName":            `"system-cluster-critical"`,
	"prometheusRule.enabled":       `true`,
	"prometheusRule.labels":        `{"g":"h"}`,
	"readinessProbe":               `{"periodSeconds":1}`,
	"resync":                       `"5m"`,
	"serviceAccount.annotations":   `{"i":"j"}`,
	"resources":                    `{"limits":{"memory":"512Mi"}}`,
	"seLinuxOptions":               `{"type":"spc_t","level":"s0:c1,c2"}`,
	"serviceCIDR":                  `["10.96.0.0/16","fd00:10:96::/112"]`,
	"serviceCIDRObjects":           `true`,
	"resolvConf.hostDir":           `"/run/systemd/resolve"`,
	"startupTaint":                 `"example.com/no-network"`,
	"tolerations":                  `[{"key":"a","operator":"Exists"}]`,
	"uninstall.enabled":            `false`,
	"uninstall.timeout":            `"1h30m"`,
	"uninstall.tolerations":        `[{"key":"b","operator":"Exists"}]`,
	"updateStrategy":               `{"type":"OnDelete","rollingUpdate":null}`,
}

// unlike the others, these do something only with another value or without it.
var with = map[string][]string{
	"extraVolumeMounts":            {`extraVolumes=[{"name":"more","emptyDir":{}}]`},
	"acceptAnyPodCIDR":             {"clusterCIDR=[]"}, // and NOTES warn
	"grafanaDashboard.annotations": {"grafanaDashboard.enabled=true"},
	"grafanaDashboard.labels":      {"grafanaDashboard.enabled=true"},
	"k8sServicePort":               {`k8sServiceHost="192.168.1.1"`},
	"metrics.port":                 {"metrics.enabled=true"},
	"podMonitor.enabled":           {"metrics.enabled=true"},
	"podMonitor.interval":          {"metrics.enabled=true", "podMonitor.enabled=true"},
	"podMonitor.labels":            {"metrics.enabled=true", "podMonitor.enabled=true"},
	"podMonitor.metricRelabelings": {"metrics.enabled=true", "podMonitor.enabled=true"},
	"prometheusRule.labels":        {"prometheusRule.enabled=true"},
}

// Each value does something, and a real API server accepts the result.
func TestEachValueDoesSomething(t *testing.T) {
	needed(t)
	ctx := testutil.Within(t, 2*time.Minute)
	content, err := os.ReadFile(filepath.Join(root, "charts", "plainroute", "values.yaml"))
	testutil.Must(t, err)
	var values map[string]any
	testutil.Must(t, yaml.Unmarshal(content, &values))
	if diff := cmp.Diff(names(values), slices.Sorted(maps.Keys(others))); diff != "" {
		t.Errorf("values of the chart (-) and values tried here (+):\n%s", diff)
	}
	for name, other := range others {
		t.Run(name, func(t *testing.T) {
			values := append([]string{`clusterCIDR=["10.244.0.0/16"]`}, with[name]...)
			changed := helm(t, append(values, name+"="+other)...)
			if name != "acceptAnyPodCIDR" {
				changed = difference(helm(t, values...), changed)
			}
			if len(changed) == 0 {
				t.Errorf("%s changes nothing", other)
			}
			server.takes(ctx, t, changed)
		})
	}
}

// difference are the objects that came or changed, or, where there are none, those that went.
func difference(before, after []*unstructured.Unstructured) []*unstructured.Unstructured {
	without := func(all, others []*unstructured.Unstructured) []*unstructured.Unstructured {
		return slices.DeleteFunc(slices.Clone(all), func(o *unstructured.Unstructured) bool {
			return slices.ContainsFunc(others, func(other *unstructured.Unstructured) bool { return cmp.Equal(o, other) })
		})
	}
	if came := without(after, before); len(came) > 0 {
		return came
	}
	return without(before, after)
}

// All at once are taken too.
func TestAllValuesAtOnce(t *testing.T) {
	needed(t)
	server.takes(testutil.Within(t, time.Minute), t, helm(t, allValues()...))
}

// allValues are others, but those that take others away.
func allValues() []string {
	var values []string
	for name, other := range others {
		if name != "uninstall.enabled" && name != "installCNI.enabled" {
			values = append(values, name+"="+other)
		}
	}
	return values
}

func (s *apiServer) takes(ctx context.Context, t *testing.T, all []*unstructured.Unstructured) {
	t.Helper()
	for _, o := range all {
		if err := s.apply(ctx, o, metav1.DryRunAll); err != nil {
			t.Errorf("%s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
}

// The Job that cleans runs on nodes that the agents' end has left without a network, and is never
// bound to one that does not answer, where Helm would wait for it in vain.
func TestUninstallAvoidsDeadNodes(t *testing.T) {
	needed(t)
	ctx := testutil.Within(t, time.Minute)
	for name, all := range map[string][]*unstructured.Unstructured{
		"Helm":      helm(t, `clusterCIDR=["10.244.0.0/16"]`, `startupTaint="plainroute/starting"`),
		"kustomize": kustomize(t, choice{resources: []string{"uninstall"}}),
	} {
		template := pods(t, all)["Job plainroute-uninstall"]
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "job"}, Spec: template.Spec}
		pod.Spec.ServiceAccountName = ""
		// An admitted pod has the tolerations that the API server adds.
		pod, err := server.Client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		testutil.Must(t, err)
		for taint, want := range map[corev1.Taint]bool{
			{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}:           true,
			{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoExecute}:            true,
			{Key: corev1.TaintNodeNetworkUnavailable, Effect: corev1.TaintEffectNoSchedule}: true,
			{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}:      true,
			{Key: "node-role.kubernetes.io/control-plane", Effect: "NoSchedule"}:            true,
			{Key: "plainroute/starting", Effect: corev1.TaintEffectNoExecute}:               true,
			{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute}:         false,
			{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute}:        false,
		} {
			got := slices.ContainsFunc(pod.Spec.Tolerations, func(one corev1.Toleration) bool { return one.ToleratesTaint(klog.Background(), &taint, false) })
			if got != want {
				t.Errorf("%s: the Job tolerates %s: %t, want %t", name, fmt.Sprint(taint.Key, ":", taint.Effect), got, want)
			}
		}
	}
}
