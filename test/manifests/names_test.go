package manifests

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	"github.com/plainroute/plainroute/test/testutil"
)

// nameOverride stands in for the chart's name, and fullnameOverride for the objects', as in the
// chart that `helm create` makes.
func TestNames(t *testing.T) {
	needed(t)
	for _, test := range []struct{ release, set, object, name string }{
		{"plainroute", "", "plainroute", "plainroute"},
		{"net", "", "net-plainroute", "plainroute"},
		{"net", "nameOverride=routes", "net-routes", "routes"},
		{"our-routes", "nameOverride=routes", "our-routes", "routes"},
		{"net", "fullnameOverride=pods", "pods", "plainroute"},
		{"net", "nameOverride=routes,fullnameOverride=pods", "pods", "routes"},
		{strings.Repeat("n", 53), "", strings.Repeat("n", 50), "plainroute"},
	} {
		all := objects(t, command(t, tool("helm"), "template", test.release, filepath.Join(root, "charts", "plainroute"),
			"--namespace="+namespace, "--set=acceptAnyPodCIDR=true,cni.plugins[0].type=bandwidth,"+test.set))
		found := false
		for _, o := range all {
			if !strings.HasPrefix(o.GetName(), test.object) {
				t.Errorf("%+v: %s %s", test, o.GetKind(), o.GetName())
			}
			if o.GetKind() != "DaemonSet" {
				continue
			}
			found = true
			set := as[appsv1.DaemonSet](t, o)
			want := map[string]string{"app.kubernetes.io/name": test.name, "app.kubernetes.io/instance": test.release}
			if diff := cmp.Diff(want, set.Spec.Selector.MatchLabels); diff != "" || set.Name != test.object {
				t.Errorf("%+v: DaemonSet %s with the selector (+):\n%s", test, set.Name, diff)
			}
		}
		if !found {
			t.Errorf("%+v: there is no DaemonSet", test)
		}
	}
}

// Commands find agents by labels that no value changes, and only agents; every object has the label
// of the product.
func TestLabels(t *testing.T) {
	needed(t)
	agents, err := labels.Parse("app.kubernetes.io/part-of=plainroute,app.kubernetes.io/component=agent")
	testutil.Must(t, err)
	for name, all := range map[string][]*unstructured.Unstructured{
		"Helm":      helm(t, append(everything, `nameOverride="routes"`, `fullnameOverride="pods"`)...),
		"kustomize": kustomize(t, choice{resources: []string{"default", "prometheus"}, components: []string{"node-condition", "startup-taint", "metrics"}}),
		"removal":   kustomize(t, choice{resources: []string{"uninstall"}}),
	} {
		for _, o := range all {
			if o.GetLabels()["app.kubernetes.io/part-of"] != "plainroute" || o.GetLabels()["app.kubernetes.io/component"] == "" {
				t.Errorf("%s: %s %s has the labels %v", name, o.GetKind(), o.GetName(), o.GetLabels())
			}
		}
		for what, pod := range pods(t, all) {
			if isAgent := strings.HasPrefix(what, "DaemonSet"); agents.Matches(labels.Set(pod.Labels)) != isAgent {
				t.Errorf("%s: pods of %s have the labels %v", name, what, pod.Labels)
			}
		}
	}
}

// The linter reports nothing, whatever values are given.
func TestLint(t *testing.T) {
	needed(t)
	args := []string{"lint", "--strict", filepath.Join(root, "charts", "plainroute")}
	for _, values := range [][]string{{`clusterCIDR=["10.244.0.0/16"]`}, everything, allValues()} {
		given := slices.Clone(args)
		for _, value := range values {
			given = append(given, "--set-json", value)
		}
		if out := string(command(t, tool("helm"), given...)); strings.Contains(out, "[") {
			t.Errorf("helm lint %v prints:\n%s", values, out)
		}
	}
}

// A version with build metadata is not valid as a label's value: the chart replaces its +.
func TestVersionOfABuild(t *testing.T) {
	needed(t)
	dir := t.TempDir()
	testutil.Must(t, os.CopyFS(dir, os.DirFS(filepath.Join(root, "charts", "plainroute"))))
	path := filepath.Join(dir, "Chart.yaml")
	content, err := os.ReadFile(path)
	testutil.Must(t, err)
	content = regexp.MustCompile(`(?m)^(version|appVersion): .*`).ReplaceAll(content, []byte("$1: 1.2.3-rc.1+build.5"))
	testutil.Must(t, os.WriteFile(path, content, 0o600))
	all := objects(t, command(t, tool("helm"), "template", "plainroute", dir, "--namespace="+namespace, "--set=acceptAnyPodCIDR=true"))
	for _, o := range all {
		if chart := o.GetLabels()["helm.sh/chart"]; chart != "plainroute-1.2.3-rc.1_build.5" {
			t.Errorf("%s %s: helm.sh/chart is %q", o.GetKind(), o.GetName(), chart)
		}
	}
	server.takes(testutil.Within(t, time.Minute), t, all)
}

// The chart, the image that it runs, the image that `make image` makes, and the changelog are of one version.
func TestVersion(t *testing.T) {
	needed(t)
	content, err := os.ReadFile(filepath.Join(root, "charts", "plainroute", "Chart.yaml"))
	testutil.Must(t, err)
	var chart struct{ Version, AppVersion string }
	testutil.Must(t, yaml.Unmarshal(content, &chart))
	image := "localhost/plainroute:" + chart.AppVersion
	for _, all := range [][]*unstructured.Unstructured{
		helm(t, `clusterCIDR=["10.244.0.0/16"]`), kustomize(t, choice{resources: []string{"default"}}), kustomize(t, choice{resources: []string{"uninstall"}}),
	} {
		for name, pod := range pods(t, all) {
			if got := pod.Spec.Containers[0].Image; got != image {
				t.Errorf("%s has the image %s; want %s", name, got, image)
			}
		}
	}
	made, err := exec.CommandContext(t.Context(), "make", "-C", root, "--no-print-directory", "--eval=print:;@echo $(IMAGE)", "print").Output()
	testutil.Must(t, err)
	if got := strings.TrimSpace(string(made)); got != image {
		t.Errorf("`make image` makes %s; want %s", got, image)
	}
	changes, err := os.ReadFile(filepath.Join(root, "CHANGELOG.md"))
	testutil.Must(t, err)
	if chart.Version != chart.AppVersion || !strings.Contains(string(changes), "\n## ["+chart.Version+"] - ") {
		t.Errorf("the chart is %s of %s; the changelog has to have that version", chart.Version, chart.AppVersion)
	}
}
