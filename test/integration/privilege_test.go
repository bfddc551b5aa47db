package integration

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// With the rights of the DaemonSet, CAP_NET_ADMIN and a read-only root, every function of the agent works.
func TestConfinedAgent(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, limit)
	node := f.node(t)
	testutil.Must(t, node.Register(ctx))
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{Confined: true}))
	testutil.Must(t, node.WaitReady(ctx))
	confined(t, node)

	testutil.Must(t, node.AwaitRoute(ctx, subnetsOf(f.nodes...)...))
	for _, subnet := range f.nodes[0].Subnets {
		took, err := node.Heal(ctx, subnet)
		testutil.Must(t, err)
		t.Logf("route to %s back after %s", subnet, took)
	}
	const forward = "net/ipv4/ip_forward"
	testutil.Must(t, node.Sysctl(forward, "0"))
	testutil.AwaitTrue(t, forward+" is 1 again", func() bool { return readSetting(t, node, forward) == "1" })
	conflist := filepath.Join(node.ConfDir, topology.Conflist)
	testutil.Must(t, os.Remove(conflist))
	testutil.AwaitTrue(t, "the CNI config is back", func() bool { _, err := os.Stat(conflist); return err == nil })

	pod, err := node.AddPod(ctx, "a")
	testutil.Must(t, err)
	knownToAll(ctx, t, f, node)
	for _, to := range []*nodelab.Pod{f.pods[0], f.pods[2]} {
		_, err := pod.Ping(ctx, to.V4)
		testutil.Must(t, err)
		_, err = pod.Ping(ctx, to.V6)
		testutil.Must(t, err)
	}
	testutil.Must(t, pod.Remove(ctx))

	testutil.Must(t, node.StopAgent(syscall.SIGKILL))
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{Confined: true}))
	testutil.Must(t, node.WaitReady(ctx))
}

// Emptying the run folder removes the CNI config's target and the lock's file: both come back at
// once, and no second agent starts meanwhile.
func TestRunFolderRemoved(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, limit)
	node := f.node(t)
	testutil.Must(t, node.Register(ctx))
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{}))
	testutil.Must(t, node.WaitReady(ctx))
	for range 3 {
		gone := node.RunDir + ".gone" // the agent is quick to write the first file again
		testutil.Must(t, os.Rename(node.RunDir, gone))
		began := time.Now()
		testutil.Must(t, os.RemoveAll(gone))
		testutil.AwaitTrue(t, "the CNI config is back", func() bool { _, err := node.CNIConfig(); return err == nil })
		took := time.Since(began)
		t.Logf("the config was back after %s", took)
		if took > 5*time.Second {
			t.Error("want it within seconds, not at the next audit")
		}
		if lock, err := (cni.Store{RunDir: node.RunDir}).TakeLock(); err == nil {
			t.Error("a second agent could start")
			testutil.Must(t, lock.Close())
		}
	}
	testutil.Must(t, node.WaitReady(ctx))
}

// confined checks that the agent has no more than it should have, as the kernel sees it.
func confined(t *testing.T, node *nodelab.Node) {
	t.Helper()
	proc := fmt.Sprintf("/proc/%d/", node.AgentPID())
	content, err := os.ReadFile(proc + "status")
	testutil.Must(t, err)
	none, netAdmin := fmt.Sprintf("%016x", 0), fmt.Sprintf("%016x", 1<<unix.CAP_NET_ADMIN)
	for name, want := range map[string]string{
		"CapInh": none, "CapPrm": netAdmin, "CapEff": netAdmin, "CapBnd": netAdmin, "CapAmb": none, "NoNewPrivs": "1",
	} {
		if !regexp.MustCompile(`(?m)^` + name + `:\s+` + want + `$`).Match(content) {
			t.Errorf("%s of the agent is not %s:\n%s", name, want, content)
		}
	}
	for _, path := range []string{"/plainroute-x", "/etc/plainroute-x", "/run/plainroute-x", "/tmp/plainroute-x", "/proc/sys/net/ipv4/ip_forward"} {
		file, err := os.OpenFile(filepath.Join(proc, "root", path), os.O_CREATE|os.O_WRONLY, 0o644)
		if err == nil {
			file.Close()
		}
		if !errors.Is(err, unix.EROFS) {
			t.Errorf("opening %s for writing as the agent sees it: %v, want a read-only file system", path, err)
		}
	}
}

func readSetting(t *testing.T, node *nodelab.Node, key string) string {
	t.Helper()
	var content []byte
	testutil.Must(t, node.Do(func() (err error) {
		content, err = os.ReadFile("/proc/sys/" + key)
		return err
	}))
	return strings.TrimSpace(string(content))
}

// An agent's answers contain nothing of its credentials or its environment, neither while all is
// well nor while the API server rejects it; nor does its log.
func TestNoSecretsInAnswers(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, limit)
	const marked = "marked-secret-d41d8cd98f00b204"
	env := []string{"PLAINROUTE_TEST_SECRET=" + marked, "AWS_SECRET_ACCESS_KEY=" + marked}
	node := f.node(t)
	testutil.Must(t, node.Register(ctx))

	withToken, err := f.Kubeconfig("marked", func(config *clientcmdapi.Config) {
		for name := range config.AuthInfos {
			config.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: marked}
		}
	})
	testutil.Must(t, err)
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{Kubeconfig: withToken, Env: env}))
	testutil.Must(t, node.WaitReadyz(ctx, func(code int, body string) bool {
		return code == http.StatusServiceUnavailable && strings.Contains(body, "Unauthorized")
	}))
	hasNone(t, node, []string{marked})
	testutil.Must(t, node.StopAgent(syscall.SIGTERM))

	var secrets []string
	own, err := f.Kubeconfig("read", func(config *clientcmdapi.Config) {
		for _, user := range config.AuthInfos {
			secrets = append(secrets, pieces(user.ClientKeyData)...)
			secrets = append(secrets, pieces(user.ClientCertificateData)...)
		}
		for _, server := range config.Clusters {
			secrets = append(secrets, pieces(server.CertificateAuthorityData)...)
		}
	})
	testutil.Must(t, err)
	if len(secrets) < 6 {
		t.Fatalf("the kubeconfig holds no keys: %d pieces", len(secrets))
	}
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{Kubeconfig: own, Env: env, Args: []string{"--log-level", "debug"}}))
	testutil.Must(t, node.WaitReady(ctx))
	hasNone(t, node, append(secrets, marked))
}

// pieces are parts of a certificate or key by which it is known, as it is and as a kubeconfig has it.
func pieces(data []byte) []string {
	var all []string
	for _, text := range []string{string(data), base64.StdEncoding.EncodeToString(data)} {
		for _, line := range strings.Fields(text) {
			if len(line) > 40 {
				all = append(all, line[:40])
			}
		}
	}
	return all
}

func hasNone(t *testing.T, node *nodelab.Node, secrets []string) {
	t.Helper()
	log, err := os.ReadFile(node.LogFile())
	testutil.Must(t, err)
	answers := map[string]string{"the log": string(log)}
	for _, path := range []string{"/metrics", "/status", "/readyz", "/healthz", "/", "/debug/pprof/", "/debug/pprof/cmdline", "/configz"} {
		_, body, err := node.Get(t.Context(), path)
		testutil.Must(t, err)
		answers[path] = body
	}
	if len(answers["/metrics"]) < 1000 || len(answers["/status"]) < 100 {
		t.Fatalf("the pages are empty: %v", answers)
	}
	for where, text := range answers {
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%s contains %q", where, secret)
			}
		}
	}
}

// An agent listens on the address of its flag, and on no other address of its node.
func TestListensOnOneAddress(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, limit)
	node := f.node(t)
	testutil.Must(t, node.Register(ctx))
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{Args: []string{"--metrics-listen", fmt.Sprintf("%s:9473", node.V4)}}))
	testutil.Must(t, node.WaitReady(ctx))
	for address, answers := range map[string]bool{
		"127.0.0.1:9472": true, fmt.Sprintf("%s:9473", node.V4): true,
		fmt.Sprintf("%s:9472", node.V4): false, fmt.Sprintf("[%s]:9472", node.V6): false, "[::1]:9472": false,
		"127.0.0.1:9473": false, fmt.Sprintf("[%s]:9473", node.V6): false,
	} {
		dial := func() error {
			connection, err := node.Dial(ctx, "tcp", netip.MustParseAddrPort(address))
			if err == nil {
				connection.Close()
			}
			return err
		}
		if answers { // a ready agent may not serve its metrics yet
			testutil.AwaitTrue(t, address+" answers", func() bool { return dial() == nil })
		} else if dial() == nil {
			t.Errorf("%s answers; no process should listen there", address)
		}
	}
}
