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

	"github.com/plainroute/plainroute/test/cluster"
)

// A firewall that drops what it forwards, as Docker's does: with the firewall plugin pods reach others and get their
// answers, and one rule more lets others begin.
func TestFirewallPlugin(t *testing.T) {
	f := setup(t)
	ctx := within(t, limit)
	iptables := useIPTables(t)
	node := f.node(t)
	run := func(args ...string) string {
		t.Helper()
		var out []byte
		must(t, node.Do(func() (err error) {
			out, err = exec.CommandContext(ctx, filepath.Join(iptables, args[0]), args[1:]...).CombinedOutput()
			return err
		}))
		return string(out)
	}
	for _, program := range []string{"iptables", "ip6tables"} {
		run(program, "-P", "FORWARD", "DROP")
	}
	must(t, node.Register(ctx))
	must(t, node.StartAgent(cluster.AgentOptions{}))
	comesAlive(t, node)
	other := f.pods[0]
	cut, err := node.AddPod(ctx, "cut")
	must(t, err)
	if _, err := cut.TCP(within(t, time.Second), other.V4); err == nil {
		t.Fatal("a pod reaches another past a firewall that drops")
	}
	must(t, node.StopAgent(syscall.SIGTERM))
	must(t, node.StartAgent(cluster.AgentOptions{Args: []string{"--firewall-plugin"}}))
	comesAlive(t, node)
	let, err := node.AddPod(ctx, "let")
	must(t, err)
	reachesUnchanged(ctx, t, let.Host, other.Host)
	if _, err := other.TCP(within(t, time.Second), let.V4); err == nil {
		t.Fatal("the plugin lets others begin: the docs say that it takes a rule more")
	}
	run("iptables", "-A", "CNI-ADMIN", "-d", node.Subnets[0].String(), "-j", "ACCEPT")
	run("ip6tables", "-A", "CNI-ADMIN", "-d", node.Subnets[1].String(), "-j", "ACCEPT")
	reachesUnchanged(ctx, t, other.Host, let.Host)
	if rules := run("iptables", "-S", "CNI-FORWARD"); !strings.Contains(rules, let.V4.String()+"/32") {
		t.Errorf("the rules are\n%s", rules)
	}
	must(t, let.Remove(ctx))
	if rules := run("iptables", "-S", "CNI-FORWARD"); strings.Contains(rules, let.V4.String()+"/32") {
		t.Errorf("the pod is gone, and its rules are\n%s", rules)
	}
	must(t, cut.Remove(ctx)) // attached without the plugin, detached with it
}

// useIPTables puts iptables where plugins look for it, and returns its folder: this machine's, or that of the tests'
// cluster of kubelets.
func useIPTables(t *testing.T) string {
	t.Helper()
	if program, err := exec.LookPath("iptables"); err == nil {
		return filepath.Dir(program)
	}
	debian, err := filepath.Abs("../../bin/e2e/debian/usr")
	must(t, err)
	folder := filepath.Join(debian, "sbin")
	if _, err := os.Stat(filepath.Join(folder, "xtables-nft-multi")); err != nil {
		t.Skipf("iptables is neither on this machine (apt-get install iptables) nor in bin/e2e (make e2e-assets): %v", err)
	}
	libraries := filepath.Join(debian, "lib", map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]+"-linux-gnu")
	mine := t.TempDir()
	for _, name := range []string{"iptables", "ip6tables"} {
		must(t, os.Symlink(filepath.Join(folder, "xtables-nft-multi"), filepath.Join(mine, name)))
	}
	t.Setenv("PATH", mine+":"+os.Getenv("PATH"))
	t.Setenv("LD_LIBRARY_PATH", libraries)
	t.Setenv("XTABLES_LIBDIR", filepath.Join(libraries, "xtables"))
	return mine
}
