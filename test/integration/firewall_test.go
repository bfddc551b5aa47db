package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// A firewall that drops forwarded packets, as Docker's does: with the firewall plugin pods reach others and get their
// answers, and one rule more lets others begin.
func TestFirewallPlugin(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, limit)
	iptables := useIPTables(t)
	node := f.node(t)
	run := func(args ...string) string {
		t.Helper()
		var out []byte
		if err := node.Do(func() (err error) {
			out, err = exec.CommandContext(ctx, filepath.Join(iptables, args[0]), args[1:]...).CombinedOutput()
			return err
		}); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	for _, program := range []string{"iptables", "ip6tables"} {
		run(program, "-P", "FORWARD", "DROP")
	}
	testutil.Must(t, node.Register(ctx))
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{}))
	comesAlive(t, node)
	knownToAll(ctx, t, f, node)
	other := f.pods[0]
	cut, err := node.AddPod(ctx, "cut")
	testutil.Must(t, err)
	if _, err := cut.TCP(testutil.Within(t, time.Second), other.V4); err == nil {
		t.Fatal("a pod reaches another past a firewall that drops")
	}
	testutil.Must(t, node.StopAgent(syscall.SIGTERM))
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{Args: []string{"--firewall-plugin"}}))
	comesAlive(t, node)
	let, err := node.AddPod(ctx, "let")
	testutil.Must(t, err)
	reachesUnchanged(ctx, t, let.Host, other.Host)
	if _, err := other.TCP(testutil.Within(t, time.Second), let.V4); err == nil {
		t.Fatal("the plugin lets others begin: by the docs it takes another rule")
	}
	run("iptables", "-A", "CNI-ADMIN", "-d", node.Subnets[0].String(), "-j", "ACCEPT")
	run("ip6tables", "-A", "CNI-ADMIN", "-d", node.Subnets[1].String(), "-j", "ACCEPT")
	reachesUnchanged(ctx, t, other.Host, let.Host)
	if rules := run("iptables", "-S", "CNI-FORWARD"); !strings.Contains(rules, let.V4.String()+"/32") {
		t.Errorf("the rules are\n%s", rules)
	}
	testutil.Must(t, let.Remove(ctx))
	if rules := run("iptables", "-S", "CNI-FORWARD"); strings.Contains(rules, let.V4.String()+"/32") {
		t.Errorf("the pod is gone, and its rules are\n%s", rules)
	}
	testutil.Must(t, cut.Remove(ctx)) // attached without the plugin, detached with it
}

// Where two nodes drop, the plugin lets out what pods begin at one and the other keeps it out,
// until CNI-ADMIN of both lets it in. A pod that is deleted after the flag is gone leaves its
// rules: runtimes call the plugins of today's config.
func TestFirewallPluginOfTwoNodes(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, limit)
	iptables := useIPTables(t)
	run := func(node *nodelab.Node, args ...string) string {
		t.Helper()
		var out []byte
		if err := node.Do(func() (err error) {
			out, err = exec.CommandContext(ctx, filepath.Join(iptables, args[0]), args[1:]...).CombinedOutput()
			return err
		}); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	var nodes [2]*nodelab.Node
	var pods [2]*nodelab.Pod
	for i := range nodes {
		nodes[i] = f.node(t)
		run(nodes[i], "iptables", "-P", "FORWARD", "DROP")
		run(nodes[i], "ip6tables", "-P", "FORWARD", "DROP")
		testutil.Must(t, nodes[i].Register(ctx))
		testutil.Must(t, nodes[i].StartAgent(nodelab.AgentOptions{Args: []string{"--firewall-plugin"}}))
		comesAlive(t, nodes[i])
	}
	knownToAll(ctx, t, f, nodes[:]...)
	for i := range nodes {
		var err error
		pods[i], err = nodes[i].AddPod(ctx, "let")
		testutil.Must(t, err)
		reachesUnchanged(ctx, t, pods[i].Host, f.pods[0].Host)
	}
	for i, pod := range pods {
		for _, address := range pods[1-i].Addrs() {
			if _, err := pod.TCP(testutil.Within(t, time.Second), address); err == nil {
				t.Errorf("%s reaches %s by the plugin alone: by the docs it takes another rule", pod.Name, address)
			}
		}
	}
	for _, node := range nodes {
		run(node, "iptables", "-A", "CNI-ADMIN", "-d", node.Subnets[0].String(), "-j", "ACCEPT")
		run(node, "ip6tables", "-A", "CNI-ADMIN", "-d", node.Subnets[1].String(), "-j", "ACCEPT")
	}
	reachesUnchanged(ctx, t, pods[0].Host, pods[1].Host)
	reachesUnchanged(ctx, t, pods[1].Host, pods[0].Host)
	testutil.Must(t, nodes[0].StopAgent(syscall.SIGTERM))
	testutil.Must(t, nodes[0].StartAgent(nodelab.AgentOptions{}))
	comesAlive(t, nodes[0])
	testutil.Must(t, pods[0].Remove(ctx))
	for program, address := range map[string]string{"iptables": pods[0].V4.String() + "/32", "ip6tables": pods[0].V6.String() + "/128"} {
		if rules := run(nodes[0], program, "-S", "CNI-FORWARD"); !strings.Contains(rules, address) {
			t.Errorf("the docs say that rules stay of pods deleted without the flag; they are\n%s", rules)
		}
	}
}

// useIPTables puts iptables where plugins look for it, and returns its folder: this machine's, or that of the tests'
// cluster of kubelets.
func useIPTables(t *testing.T) string {
	t.Helper()
	if program, err := exec.LookPath("iptables"); err == nil {
		return filepath.Dir(program)
	}
	debian, err := filepath.Abs("../../bin/e2e/debian/usr")
	testutil.Must(t, err)
	folder := filepath.Join(debian, "sbin")
	if _, err := os.Stat(filepath.Join(folder, "xtables-nft-multi")); err != nil {
		t.Skipf("iptables is neither on this machine (apt-get install iptables) nor in bin/e2e (make e2e-assets): %v", err)
	}
	libraries := filepath.Join(debian, "lib", map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]+"-linux-gnu")
	mine := t.TempDir()
	for _, name := range []string{"iptables", "ip6tables"} {
		testutil.Must(t, os.Symlink(filepath.Join(folder, "xtables-nft-multi"), filepath.Join(mine, name)))
	}
	t.Setenv("PATH", mine+":"+os.Getenv("PATH"))
	t.Setenv("LD_LIBRARY_PATH", libraries)
	t.Setenv("XTABLES_LIBDIR", filepath.Join(libraries, "xtables"))
	return mine
}
