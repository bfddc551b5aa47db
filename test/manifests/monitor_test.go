package manifests

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/plainroute/plainroute/test/testutil"
)

// relabeling is a rule of Prometheus for series (relabel_config).
type relabeling struct {
	SourceLabels  []string
	Regex, Action string
}

// keep reports whether the rules keep a series: all regexps are anchored, and labels are joined by semicolons.
func keep(t *testing.T, rules []relabeling, series map[string]string) bool {
	t.Helper()
	for _, rule := range rules {
		var values []string
		for _, label := range rule.SourceLabels {
			values = append(values, series[label])
		}
		matches, err := regexp.MatchString("^(?:"+rule.Regex+")$", strings.Join(values, ";"))
		testutil.Must(t, err)
		if matches != (rule.Action == "keep") {
			return false
		}
	}
	return true
}

// All series that alerts and the dashboard use are kept by default, including the buckets with an
// alert's limit.
func TestPodMonitorKeepsWhatIsUsed(t *testing.T) {
	needed(t)
	rendered := command(t, tool("helm"), "template", "x", filepath.Join(root, "charts", "plainroute"), "--show-only=templates/pod_monitor.yaml",
		"--set=acceptAnyPodCIDR=true,metrics.enabled=true,podMonitor.enabled=true")
	var monitor podMonitor
	testutil.Must(t, yaml.Unmarshal(rendered, &monitor))
	rules := monitor.Spec.Endpoints[0].MetricRelabelings
	used := map[string]bool{}
	for _, file := range []string{"alerts.yaml", "dashboards/plainroute.json"} {
		content, err := os.ReadFile(filepath.Join(root, "charts", "plainroute", file))
		testutil.Must(t, err)
		for _, name := range regexp.MustCompile(`\b(plainroute|process)_[a-z_]+`).FindAllString(string(content), -1) {
			used[name] = true
		}
	}
	if len(used) < 15 {
		t.Fatalf("only %d metrics are used", len(used))
	}
	for name := range used {
		series := map[string]string{"__name__": name}
		if strings.HasSuffix(name, "_bucket") {
			series["le"] = "1.024" // PlainrouteLatencyHigh
		}
		if !keep(t, rules, series) {
			t.Errorf("%v is dropped", series)
		}
	}
	for _, series := range []map[string]string{{"__name__": "go_goroutines"}, {"__name__": "plainroute_pass_duration_seconds_bucket", "le": "0.001"}} {
		if keep(t, rules, series) {
			t.Errorf("%v is kept", series)
		}
	}
}

// podMonitor has the fields of one that the tests read (monitoring.coreos.com/v1).
type podMonitor struct {
	Spec struct {
		JobLabel  string
		Selector  struct{ MatchLabels map[string]string }
		Endpoints []struct {
			Port        string
			Relabelings []struct {
				SourceLabels []string
				TargetLabel  string
			}
			MetricRelabelings []relabeling
		} `json:"podMetricsEndpoints"`
	}
}

// The PodMonitor selects the agents' pods, names a port that they have, and gives targets the labels that alerts and the
// dashboard go by: the job plainroute, whatever the release is called, and the node.
func TestPodMonitorFindsAgents(t *testing.T) {
	needed(t)
	for name, all := range map[string][]*unstructured.Unstructured{
		"Helm":      helm(t, `clusterCIDR=["10.244.0.0/16"]`, "metrics.enabled=true", "podMonitor.enabled=true", `nameOverride="other"`),
		"kustomize": kustomize(t, choice{resources: []string{"default", "prometheus"}, components: []string{"metrics"}}),
	} {
		t.Run(name, func(t *testing.T) {
			var monitor podMonitor
			var agents appsv1.DaemonSet
			for _, o := range all {
				switch o.GetKind() {
				case "PodMonitor":
					content, err := json.Marshal(o.Object)
					testutil.Must(t, err)
					testutil.Must(t, json.Unmarshal(content, &monitor))
				case "DaemonSet":
					testutil.Must(t, runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &agents))
				}
			}
			checkMonitor(t, monitor, agents)
		})
	}
}

func checkMonitor(t *testing.T, monitor podMonitor, agents appsv1.DaemonSet) {
	t.Helper()
	pod := agents.Spec.Template
	if s := monitor.Spec.Selector.MatchLabels; len(s) == 0 || !labels.SelectorFromSet(s).Matches(labels.Set(pod.Labels)) {
		t.Errorf("it selects %v, and pods have %v", s, pod.Labels)
	}
	// The name is the chart's nameOverride, and the instance the release.
	if label := monitor.Spec.JobLabel; label != "app.kubernetes.io/part-of" || pod.Labels[label] != "plainroute" {
		t.Errorf("the job is called as the label %s has it, %q", label, pod.Labels[label])
	}
	ports := map[string]bool{}
	for _, container := range pod.Spec.Containers {
		for _, port := range container.Ports {
			ports[port.Name] = true
		}
	}
	if len(monitor.Spec.Endpoints) != 1 || !ports[monitor.Spec.Endpoints[0].Port] {
		t.Fatalf("its endpoints are %+v, and the pods' ports %v", monitor.Spec.Endpoints, slices.Collect(maps.Keys(ports)))
	}
	relabelings := monitor.Spec.Endpoints[0].Relabelings
	if len(relabelings) != 1 || relabelings[0].TargetLabel != "node" || !slices.Equal(relabelings[0].SourceLabels, []string{"__meta_kubernetes_pod_node_name"}) {
		t.Errorf("targets get no label of their node: %+v", relabelings)
	}
}
