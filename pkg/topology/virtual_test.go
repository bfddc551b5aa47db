package topology

import (
	"maps"
	"os"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/yaml"
)

// The manifests keep agents off the Nodes that VirtualLabels marks.
func TestVirtualAsInTheManifests(t *testing.T) {
	text, err := os.ReadFile("../../config/daemonset/daemonset.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var set appsv1.DaemonSet
	if err := yaml.Unmarshal(text, &set); err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{}
	for _, r := range set.Spec.Template.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchExpressions {
		want[r.Key] = r.Values
		for _, value := range r.Values {
			if got := VirtualLabel(map[string]string{"a": "b", r.Key: value}); got != r.Key+"="+value {
				t.Errorf("%s=%s: got %q", r.Key, value, got)
			}
		}
	}
	if got := VirtualLabels(); !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("got %v, the manifests have %v", got, want)
	}
	if Virtual(map[string]string{"type": "real"}) || Virtual(nil) {
		t.Error("a real Node is taken for virtual")
	}
}
