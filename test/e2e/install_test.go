package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/plainroute/plainroute/test/testutil"
)

const (
	productNamespace = "plainroute-system"
	productName      = "plainroute"
)

// installer runs the commands that a user would type.
type installer interface {
	install(context.Context) error
	upgrade(context.Context) error
	uninstall(context.Context) error
}

func newInstaller(t *testing.T, c *cluster) installer {
	t.Helper()
	switch *install {
	case "helm":
		return helm{c}
	case "kustomize":
		return kustomize{cluster: c, overlay: t.TempDir()}
	}
	t.Fatalf("-install is %q: want helm or kustomize", *install)
	return nil
}

// notReady checks the state of a cluster without a pod network.
func (s *story) notReady(ctx context.Context, t *testing.T) {
	await(ctx, t, "nodes that only lack a network", func(ctx context.Context) error {
		nodes, err := s.cluster.nodes(ctx)
		if err != nil {
			return err
		}
		if len(nodes) < 2 {
			return fmt.Errorf("there are %d nodes: want two at least", len(nodes))
		}
		for _, one := range nodes {
			if one.isReady() == nil {
				t.Fatalf("node %s is ready: this cluster has a network already", one.name)
			}
			if !strings.Contains(one.ready.Message, "cni plugin not initialized") || len(one.subnets) == 0 {
				return fmt.Errorf("node %s: %s, subnets %s", one.name, one.ready.Message, one.subnets)
			}
		}
		return nil
	})
	s.plant(ctx, t)
}

// installed waits until the agents have made all nodes Ready, and returns how long that took.
func (s *story) installed(ctx context.Context, t *testing.T) time.Duration {
	t.Helper()
	nodes, err := s.cluster.nodes(ctx)
	testutil.Must(t, err)
	start := time.Now()
	testutil.Must(t, s.product.install(ctx))
	await(ctx, t, "all nodes to be ready", func(ctx context.Context) error { return s.cluster.allReady(ctx, len(nodes)) })
	return time.Since(start)
}

func (s *story) install(ctx context.Context, t *testing.T) {
	took := s.installed(ctx, t)
	t.Logf("%s install to all nodes Ready: %.1f s (the goal on a quiet machine is 15 s)", *install, took.Seconds())
	await(ctx, t, "the agents", s.cluster.rolledOut)
	if _, isHelm := s.product.(helm); !isHelm {
		return
	}
	await(ctx, t, "the condition of each Node", func(ctx context.Context) error { return s.cluster.conditions(ctx, true) })
	await(ctx, t, "each Node to lose its start-up taint", s.cluster.untainted)
	if len(nodeCommand()) > 0 {
		s.direct(ctx, t)
	}
}

// conditions is nil if all Nodes have the condition that agents keep by nodeCondition, or none has it.
func (c *cluster) conditions(ctx context.Context, want bool) error {
	list, err := c.api.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("listing nodes: %w", err)
	}
	for _, one := range list.Items {
		has := slices.ContainsFunc(one.Status.Conditions, func(condition corev1.NodeCondition) bool {
			return condition.Type == corev1.NodeNetworkUnavailable && condition.Status == corev1.ConditionFalse
		})
		if has != want {
			return fmt.Errorf("node %s has NetworkUnavailable=False: %t, want %t", one.Name, has, want)
		}
	}
	return nil
}

// installAgain leaves the product installed, and nothing of the tests.
func (s *story) installAgain(ctx context.Context, t *testing.T) {
	t.Logf("second %s install to all nodes Ready: %.1f s", *install, s.installed(ctx, t).Seconds())
	testutil.Must(t, s.cluster.makeObjects(ctx))
	s.awaitPods(ctx, t, nil)
	s.reach(ctx, t)
	testutil.Must(t, s.cluster.removeNamespace(ctx, namespace))
	s.uproot(ctx, t)
}

// helm installs the chart by the two commands of docs/install.md, in a cluster that taints its new
// nodes and on agents that can do without kube-proxy.
type helm struct{ cluster *cluster }

func (h helm) install(ctx context.Context) error {
	if _, err := kubectl(ctx, "apply", "--filename="+filepath.Join(h.chart(), "namespace.yaml")); err != nil {
		return err
	}
	ranges, err := json.Marshal(strings.Split(*clusterCIDR, ","))
	if err != nil {
		return err
	}
	host, port, err := h.cluster.apiServer(ctx)
	if err != nil {
		return err
	}
	if err := h.cluster.taint(ctx); err != nil {
		return err
	}
	args := []string{
		"install", productName, h.chart(), "--set-json=clusterCIDR=" + string(ranges), "--set=nodeCondition=true",
		"--set=cni.config=file", "--set=startupTaint=" + startupTaint, "--set=k8sServiceHost=" + host, fmt.Sprintf("--set=k8sServicePort=%d", port),
	}
	if *crossSubnet {
		args = append(args, "--set=encapsulation=cross-subnet")
	}
	return h.run(ctx, args...)
}

func (h helm) upgrade(ctx context.Context) error {
	args := []string{"upgrade", productName, h.chart(), "--reset-then-reuse-values", `--set-json=extraArgs=["--resync=50s"]`}
	if *upgradeTag != "" {
		args = append(args, "--set-string=image.tag="+*upgradeTag)
	}
	return h.run(ctx, args...)
}

func (h helm) uninstall(ctx context.Context) error {
	if err := h.run(ctx, "uninstall", productName, "--wait", "--timeout=4m"); err != nil {
		return err
	}
	return h.cluster.removeNamespace(ctx, productNamespace)
}

func (h helm) chart() string { return filepath.Join(*root, "charts/plainroute") }

func (h helm) run(ctx context.Context, args ...string) error {
	_, err := output(ctx, "", append([]string{tool("helm"), "--namespace=" + productNamespace}, args...)...)
	return err
}

// kustomize applies an overlay of config/default, as a user would write it.
type kustomize struct {
	cluster *cluster
	overlay string
}

func (k kustomize) install(ctx context.Context) error {
	return k.apply(ctx, map[string]string{"PLAINROUTE_CLUSTER_CIDR": *clusterCIDR}, "")
}

func (k kustomize) upgrade(ctx context.Context) error {
	return k.apply(ctx, map[string]string{"PLAINROUTE_CLUSTER_CIDR": *clusterCIDR, "PLAINROUTE_RESYNC": "50s"}, *upgradeTag)
}

// uninstall removes the agents first, because they repair what is cleaned; then a Job cleans the nodes.
func (k kustomize) uninstall(ctx context.Context) error {
	job := filepath.Join(*root, "config/uninstall")
	if _, err := kubectl(ctx, "delete", "--namespace="+productNamespace, "daemonset", productName); err != nil {
		return err
	}
	if _, err := kubectl(ctx, "apply", "-k", job); err != nil {
		return err
	}
	if err := k.cluster.jobDone(ctx, productName+"-uninstall"); err != nil {
		return err
	}
	if _, err := kubectl(ctx, "delete", "-k", job); err != nil {
		return err
	}
	_, err := kubectl(ctx, "delete", "--ignore-not-found", "-k", k.overlay)
	return err
}

// jobDone waits until a Job succeeds or fails.
func (c *cluster) jobDone(ctx context.Context, name string) error {
	return wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, 2*limit, true, func(ctx context.Context) (bool, error) {
		job, err := c.api.BatchV1().Jobs(productNamespace).Get(ctx, name, metav1.GetOptions{})
		if err == nil && job.Status.Failed > 0 {
			err = fmt.Errorf("the job %s failed, see its log", name)
		}
		return err == nil && job.Status.Succeeded > 0, err
	})
}

func (k kustomize) apply(ctx context.Context, environment map[string]string, tag string) error {
	config, err := filepath.Rel(k.overlay, filepath.Join(*root, "config"))
	if err != nil {
		return err
	}
	patch := map[string]any{
		"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": map[string]string{"name": productName},
		"spec": map[string]any{"template": map[string]any{"spec": map[string]any{
			"containers": []any{map[string]any{"name": "agent", "env": variables(environment)}},
		}}},
	}
	text, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	overlay := map[string]any{
		"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
		"resources": []string{config + "/default"},
		"patches":   []any{map[string]any{"patch": string(text), "target": map[string]string{"kind": "DaemonSet", "name": productName}}},
	}
	if *crossSubnet {
		overlay["components"] = []string{config + "/components/cross-subnet"}
	}
	if tag != "" {
		overlay["images"] = []any{map[string]string{"name": "localhost/plainroute", "newTag": tag}}
	}
	if text, err = json.Marshal(overlay); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(k.overlay, "kustomization.yaml"), text, 0o644); err != nil {
		return err
	}
	_, err = kubectl(ctx, "apply", "-k", k.overlay)
	return err
}

func variables(environment map[string]string) []any {
	var list []any
	for name, value := range environment {
		list = append(list, map[string]string{"name": name, "value": value})
	}
	return list
}
