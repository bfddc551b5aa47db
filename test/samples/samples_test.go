package samples

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	helmv1 "github.com/k3s-io/helm-controller/pkg/apis/helm.cattle.io/v1"
	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/config/configpatcher"
	"github.com/siderolabs/talos/pkg/machinery/config/generate"
	"github.com/siderolabs/talos/pkg/machinery/config/machine"
	corev1 "k8s.io/api/core/v1"
	kubeadmv1 "k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm/v1beta4"
	addonsv1 "sigs.k8s.io/cluster-api/api/addons/v1beta2"
)

// k3s and RKE2 install the chart as an archive in a HelmChart.
func TestHelmCharts(t *testing.T) {
	for distribution, folders := range map[string][]string{
		"k3s":  {"path: /var/lib/rancher/k3s/agent/etc/cni/net.d", "path: /var/lib/rancher/k3s/data/cni"},
		"rke2": {"path: /etc/cni/net.d", "path: /opt/cni/bin"},
	} {
		t.Run(distribution, func(t *testing.T) {
			dir, content := documented(t, "plainroute-"+distribution+".yaml")
			all := documents(t, content)
			if len(all) != 2 {
				t.Fatalf("there are %d documents; want the namespace and the HelmChart", len(all))
			}
			var namespace corev1.Namespace
			decode(t, all[0], &namespace, "v1", "Namespace")
			var chart helmv1.HelmChart
			decode(t, all[1], &chart, "helm.cattle.io/v1", "HelmChart")
			if chart.Namespace != "kube-system" || chart.Spec.TargetNamespace != namespace.Name || !chart.Spec.Bootstrap {
				t.Errorf("the HelmChart is %+v; want it in kube-system, for %s and for the bootstrap", chart.ObjectMeta, namespace.Name)
			}
			archive, err := base64.StdEncoding.DecodeString(chart.Spec.ChartContent)
			must(t, err)
			must(t, os.WriteFile(filepath.Join(dir, "archive.tgz"), archive, 0o600))
			must(t, os.WriteFile(filepath.Join(dir, "values.yaml"), []byte(chart.Spec.ValuesContent), 0o600))
			manifest := string(run(t, dir, "helm", "template", chart.Name, "archive.tgz", "-n", chart.Spec.TargetNamespace, "-f", "values.yaml"))
			accepts(t, manifest, "10.42.0.0/16")
			for _, folder := range folders {
				if !strings.Contains(manifest, folder+"\n") {
					t.Errorf("the agents lack %s", folder)
				}
			}
		})
	}
}

// talosMode is a machine with a disk.
type talosMode struct{}

func (talosMode) String() string        { return "metal" }
func (talosMode) RequiresInstall() bool { return false }
func (talosMode) InContainer() bool     { return false }

// talosConfig is a machine's config with patches, which Talos' own library applies and validates.
func talosConfig(t *testing.T, of machine.Type, patches ...[]byte) config.Provider {
	t.Helper()
	input, err := generate.NewInput("test", "https://192.168.1.1:6443", "1.36.0")
	must(t, err)
	generated, err := input.Config(of)
	must(t, err)
	var loaded []configpatcher.Patch
	for _, content := range patches {
		patch, err := configpatcher.LoadPatch(content)
		must(t, err)
		loaded = append(loaded, patch)
	}
	patched, err := configpatcher.Apply(configpatcher.WithConfig(generated), loaded)
	must(t, err)
	machineConfig, err := patched.Config()
	must(t, err)
	warnings, err := machineConfig.Validate(talosMode{})
	if err != nil || len(warnings) > 0 {
		t.Errorf("Talos finds in the config of a machine of type %s: %v %q", of, err, warnings)
	}
	return machineConfig
}

// Control planes of Talos apply the rendered chart; no machine has Talos' own network.
func TestTalos(t *testing.T) {
	dir, manifest := documented(t, "plainroute-talos.yaml")
	network, err := os.ReadFile(filepath.Join(dir, "config", "samples", "talos", "cluster.yaml"))
	must(t, err)
	controlPlane := talosConfig(t, machine.TypeControlPlane, network, manifest)
	for _, cluster := range []config.Provider{controlPlane, talosConfig(t, machine.TypeWorker, network)} {
		if cni, pods := cluster.Cluster().Network().CNI().Name(), cluster.Cluster().Network().PodCIDRs(); cni != "none" || !slices.Equal(pods, []string{"10.244.0.0/16"}) {
			t.Errorf("the network is %q, for pods in %q", cni, pods)
		}
	}
	all := controlPlane.Cluster().InlineManifests()
	if len(all) != 1 || all[0].Name() != "plainroute" {
		t.Fatalf("there are %d inline manifests", len(all))
	}
	want := rendered(t, dir, "--set", "clusterCIDR={10.244.0.0/16}", "--set", "serviceCIDR={10.96.0.0/12}", "--set", "image.repository=registry.example/plainroute")
	if diff := cmp.Diff(want, all[0].Contents()); diff != "" {
		t.Errorf("the rendered chart (-) and the inline manifest (+) differ:\n%s", diff)
	}
}

// Cluster API applies a ConfigMap with the rendered chart.
func TestClusterAPI(t *testing.T) {
	dir, manifest := documented(t, "config/samples/cluster-api/plainroute.yaml")
	accepts(t, string(manifest), "10.244.0.0/16")
	var set addonsv1.ClusterResourceSet
	var configMap corev1.ConfigMap
	for _, document := range documents(t, run(t, dir, "kustomize", "build", "config/samples/cluster-api")) {
		if strings.Contains(string(document), "kind: ClusterResourceSet") {
			decode(t, document, &set, "addons.cluster.x-k8s.io/v1beta2", "ClusterResourceSet")
		} else {
			decode(t, document, &configMap, "v1", "ConfigMap")
		}
	}
	want := []addonsv1.ResourceRef{{Kind: string(addonsv1.ConfigMapClusterResourceSetResourceKind), Name: configMap.Name}}
	if !slices.Equal(set.Spec.Resources, want) || set.Namespace != configMap.Namespace || set.Spec.Strategy != string(addonsv1.ClusterResourceSetStrategyReconcile) {
		t.Errorf("the ClusterResourceSet in %q has %+v; want %+v in %q", set.Namespace, set.Spec, want, configMap.Namespace)
	}
	if diff := cmp.Diff(string(manifest), configMap.Data["plainroute.yaml"]); diff != "" {
		t.Errorf("the rendered chart (-) and the ConfigMap (+) differ:\n%s", diff)
	}
}

// kubeadm allocates each node's subnet from the range that the chart's users are told.
func TestKubeadm(t *testing.T) {
	content, err := os.ReadFile(filepath.Join("..", "..", "config", "samples", "kubeadm", "cluster.yaml"))
	must(t, err)
	var cluster kubeadmv1.ClusterConfiguration
	decode(t, content, &cluster, "kubeadm.k8s.io/v1beta4", "ClusterConfiguration")
	if want := (kubeadmv1.Networking{PodSubnet: "10.244.0.0/16", ServiceSubnet: "10.96.0.0/16"}); cluster.Networking != want {
		t.Errorf("the networks are %+v; want %+v", cluster.Networking, want)
	}
}
