package manifests

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
)

// podMonitor is what we look at of one (monitoring.coreos.com/v1).
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
					must(t, err)
					must(t, json.Unmarshal(content, &monitor))
				case "DaemonSet":
					must(t, runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &agents))
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
	// The instance is called plainroute here as well; the name always is.
	if label := monitor.Spec.JobLabel; label != "app.kubernetes.io/name" || pod.Labels[label] != "plainroute" {
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
