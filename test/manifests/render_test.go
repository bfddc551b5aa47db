package manifests

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/plainroute/plainroute/test/testutil"
)

// choice is one way to install, as arguments of both.
type choice struct {
	name string
	// values are Helm's.
	values []string
	// resources and components are folders below config, env the variables that an overlay sets for the agent.
	resources, components []string
	env                   map[string]string
}

func choices() []choice {
	return []choice{
		{name: "default", values: []string{`clusterCIDR=["10.244.0.0/16","fd00:10:244::/48"]`, "uninstall.enabled=false"}, resources: []string{"default"}},
		{
			name: "dual-stack", resources: []string{"samples/dual-stack"},
			values: []string{
				`clusterCIDR=["10.244.0.0/16","fd00:10:244::/48"]`, `serviceCIDR=["10.96.0.0/16","fd00:10:96::/112"]`, "uninstall.enabled=false",
			},
		},
		{
			name: "k3s", resources: []string{"samples/k3s"},
			values: []string{
				`clusterCIDR="10.42.0.0/16"`, `serviceCIDR="10.43.0.0/16"`, "uninstall.enabled=false",
				`cni={"confDir":"/var/lib/rancher/k3s/agent/etc/cni/net.d","binDir":"/var/lib/rancher/k3s/data/cni"}`,
			},
		},
		{
			name: "everything", resources: []string{"default", "prometheus"},
			components: []string{"node-condition", "startup-taint", "metrics", "firewall-plugin", "resolv-conf", "cross-subnet", "service-cidrs"},
			values: []string{
				`clusterCIDR=["10.244.0.0/16","fd00:10:244::/48"]`, "nodeCondition=true", `startupTaint="plainroute/starting"`, "metrics.enabled=true", "serviceCIDRObjects=true",
				"podMonitor.enabled=true", "prometheusRule.enabled=true", "masquerade=false", "firewallPlugin=true", `resolvConf={"hostDir":"/run/systemd/resolve"}`, `nodeCIDR=["192.168.1.0/24"]`,
				`encapsulation="cross-subnet"`, "uninstall.enabled=false",
			},
			env: map[string]string{"PLAINROUTE_MASQUERADE": "false", "PLAINROUTE_NODE_CIDR": "192.168.1.0/24"},
		},
	}
}

// An installation by Helm has the same objects as one by kustomize.
func TestSameObjects(t *testing.T) {
	needed(t)
	for _, choice := range choices() {
		t.Run(choice.name, func(t *testing.T) {
			compare(t, installed(helm(t, choice.values...)), installed(kustomize(t, choice)))
		})
	}
	t.Run("uninstall", func(t *testing.T) {
		hooks := slices.DeleteFunc(helm(t, `clusterCIDR=["10.244.0.0/16"]`), func(o *unstructured.Unstructured) bool {
			return o.GetAnnotations()["helm.sh/hook"] != "post-delete"
		})
		compare(t, hooks, kustomize(t, choice{resources: []string{"uninstall"}}))
	})
}

// installed leaves out hooks, among them the pod of `helm test`.
func installed(objects []*unstructured.Unstructured) []*unstructured.Unstructured {
	return slices.DeleteFunc(objects, func(o *unstructured.Unstructured) bool { return o.GetAnnotations()["helm.sh/hook"] != "" })
}

func compare(t *testing.T, byHelm, byKustomize []*unstructured.Unstructured) {
	t.Helper()
	if len(byHelm) == 0 {
		t.Fatal("Helm renders nothing")
	}
	if diff := cmp.Diff(byName(t, byKustomize), byName(t, byHelm)); diff != "" {
		t.Errorf("what kustomize (-) and Helm (+) make:\n%s", diff)
	}
}

// byName removes the fields that may differ: the namespace, which Helm leaves to its user, labels
// and annotations of the tools, and the order of environment variables.
func byName(t *testing.T, objects []*unstructured.Unstructured) map[string]any {
	t.Helper()
	all := map[string]any{}
	for _, o := range objects {
		if o.GetKind() == "Namespace" {
			continue
		}
		labels := o.GetLabels()
		for _, label := range []string{"helm.sh/chart", "app.kubernetes.io/managed-by", "app.kubernetes.io/version"} {
			delete(labels, label)
		}
		o.SetLabels(labels)
		o.SetAnnotations(nil)
		sortEnvironment(t, o)
		name := o.GetKind() + " " + o.GetNamespace() + "/" + o.GetName()
		if all[name] != nil {
			t.Errorf("%s is there twice", name)
		}
		all[name] = o.Object
	}
	return all
}

func sortEnvironment(t *testing.T, o *unstructured.Unstructured) {
	t.Helper()
	path := []string{"spec", "template", "spec", "containers"}
	containers, there, err := unstructured.NestedSlice(o.Object, path...)
	testutil.Must(t, err)
	if !there {
		return
	}
	for _, one := range containers {
		container := one.(map[string]any)
		if env, ok := container["env"].([]any); ok {
			slices.SortFunc(env, func(a, b any) int { return strings.Compare(variable(a), variable(b)) })
		}
	}
	testutil.Must(t, unstructured.SetNestedSlice(o.Object, containers, path...))
}

func variable(entry any) string { return fmt.Sprint(entry.(map[string]any)["name"]) }

// helm renders the chart as users install it.
func helm(t *testing.T, values ...string) []*unstructured.Unstructured {
	t.Helper()
	args := []string{"template", "plainroute", filepath.Join(root, "charts", "plainroute"), "--namespace", namespace}
	for _, value := range values {
		args = append(args, "--set-json", value)
	}
	return objects(t, command(t, tool("helm"), args...))
}

// kustomize renders an overlay as users write it.
func kustomize(t *testing.T, c choice) []*unstructured.Unstructured {
	t.Helper()
	dir := t.TempDir()
	config, err := filepath.Abs(filepath.Join(root, "config"))
	testutil.Must(t, err)
	relative, err := filepath.Rel(dir, config)
	testutil.Must(t, err)
	overlay := map[string]any{"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
	overlay["resources"] = below(relative, c.resources)
	var components []string
	for _, name := range c.components {
		components = append(components, "components/"+name)
	}
	overlay["components"] = below(relative, components)
	if len(c.env) > 0 {
		var env []any
		for name, value := range c.env {
			env = append(env, map[string]any{"name": name, "value": value})
		}
		overlay["patches"] = []any{patch(t, env)}
	}
	content, err := json.Marshal(overlay)
	testutil.Must(t, err)
	testutil.Must(t, os.WriteFile(filepath.Join(dir, "kustomization.yaml"), content, 0o600))
	return objects(t, command(t, tool("kustomize"), "build", dir))
}

func below(config string, names []string) []string {
	var paths []string
	for _, name := range names {
		paths = append(paths, filepath.Join(config, name))
	}
	return paths
}

func patch(t *testing.T, env []any) map[string]any {
	t.Helper()
	type settings = map[string]any
	content, err := json.Marshal(settings{
		"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": settings{"name": "plainroute"},
		"spec": settings{"template": settings{"spec": settings{"containers": []any{settings{"name": "agent", "env": env}}}}},
	})
	testutil.Must(t, err)
	return settings{"patch": string(content), "target": settings{"kind": "DaemonSet", "name": "plainroute"}}
}

func command(t *testing.T, path string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), path, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(path), strings.Join(args, " "), err, stderr.String())
	}
	return out
}

func objects(t *testing.T, content []byte) []*unstructured.Unstructured {
	t.Helper()
	var all []*unstructured.Unstructured
	for decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), 4096); ; {
		o := &unstructured.Unstructured{}
		err := decoder.Decode(&o.Object)
		if errors.Is(err, io.EOF) {
			return all
		}
		testutil.Must(t, err)
		if len(o.Object) > 0 {
			all = append(all, o)
		}
	}
}

// The schema rejects what would fail later, with an error that names the value.
func TestValuesAreChecked(t *testing.T) {
	needed(t)
	for _, test := range []struct{ value, want string }{
		{`masquerade=true`, "at '/clusterCIDR': minItems: got 0, want 1"},
		{`masquerade=true`, "at '/acceptAnyPodCIDR': value must be true"},
		{`clusterCIDR=["10.244.0.0"]`, "/clusterCIDR/0"},
		{`clusterCIDR=["10.244.0.0/16","fd00:10:244::/129"]`, "/clusterCIDR/1"},
		{`clusterCIDR="10.244.0.0/33"`, "/clusterCIDR"},
		{`serviceCIDR="10.96.0.0"`, "/serviceCIDR"},
		{`clusterCidr=["10.244.0.0/16"]`, "clusterCidr"},
		{`cni.confDir="etc/cni"`, "/cni/confDir"},
		{`cni.config="symlink"`, "/cni/config"},
		{`cni.before=["00-multus"]`, "/cni/before/0"},
		{`cni.plugins=[{"capabilities":{}}]`, "/cni/plugins/0"},
		{`cni.plugins=[{"type":"../x"}]`, "/cni/plugins/0/type"},
		{`extraArgs=["mtu"]`, "/extraArgs/0"},
		{`startupTaint="a b"`, "/startupTaint"},
		{`mtu=575`, "/mtu"},
		{`encapsulation="ipip"`, "/encapsulation"},
		{`offLink="drop"`, "/offLink"},
		{`vxlan={"port":70000}`, "/vxlan/port"},
		{`clusterCIDR=["10.244.0.0/16","fd00:10:244::/48"],mtu=1279`, "/mtu"},
		{`bridge="a-name-too-long-for-a-device"`, "/bridge"},
		{`masquerade="ipv4"`, "/masquerade"},
		{`nodeCIDRMaskSizeIPv4=31`, "/nodeCIDRMaskSizeIPv4"},
		{`nonMasqueradeCIDR=["172.16.0.0"]`, "/nonMasqueradeCIDR/0"},
		{`logFormat="xml"`, "/logFormat"},
		{`resync="often"`, "/resync"},
		{`livenessProbe={"httpGet":{"path":"/"}}`, "/livenessProbe"},
		{`image.digest="latest"`, "/image/digest"},
		{`podLabels={"app.kubernetes.io/name":"mine"}`, "/podLabels"},
		{`podMonitor.labels={"app.kubernetes.io/instance":"mine"}`, "/podMonitor/labels"},
		{`image.tag=1`, "/image/tag"},
		{`k8sServiceHost="192.168.1.1:6443"`, "/k8sServiceHost"},
		{`k8sServiceHost="https://192.168.1.1"`, "/k8sServiceHost"},
		{`podMonitor.enabled=true`, "podMonitor.enabled needs metrics.enabled"},
	} {
		args := []string{"template", "x", filepath.Join(root, "charts", "plainroute"), "--set-json", test.value}
		if test.value != `masquerade=true` && !strings.HasPrefix(test.value, "clusterCIDR") {
			args = append(args, "--set-json", `clusterCIDR=["10.244.0.0/16"]`)
		}
		out, err := exec.CommandContext(t.Context(), tool("helm"), args...).CombinedOutput()
		if err == nil || !bytes.Contains(out, []byte(test.want)) {
			t.Errorf("with %s Helm prints %v, %s; want an error about %s", test.value, err, out, test.want)
		}
	}
	if _, err := exec.CommandContext(t.Context(), tool("helm"), "template", "x", filepath.Join(root, "charts", "plainroute"),
		"--set", "acceptAnyPodCIDR=true").CombinedOutput(); err != nil {
		t.Errorf("acceptAnyPodCIDR does without clusterCIDR: %v", err)
	}
}
