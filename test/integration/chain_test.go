package integration

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// netd is where installers of other projects have the node's CNI folder mounted, in containers of their own.
const netd = "/host/etc/cni/net.d"

// alone runs a function where nothing of the node is visible but its CNI folder, as in such a container.
func alone(t *testing.T, node *nodelab.Node) (run func(func() error) error) {
	t.Helper()
	root := t.TempDir()
	folder := filepath.Join(root, netd)
	testutil.Must(t, os.MkdirAll(folder, 0o755))
	testutil.Must(t, os.MkdirAll(node.ConfDir, 0o755))
	testutil.Must(t, unix.Mount(node.ConfDir, folder, "", unix.MS_BIND, ""))
	t.Cleanup(func() { testutil.Must(t, unix.Unmount(folder, unix.MNT_DETACH)) })
	return func(fn func() error) error {
		done := make(chan error)
		go func() {
			runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
			err := unix.Unshare(unix.CLONE_FS)
			if err == nil {
				err = unix.Chroot(root)
			}
			if err == nil {
				err = fn()
			}
			done <- err
		}()
		return <-done
	}
}

// meshPlugin is the plugin that the mesh appends: a stock plugin whose work shows in the pod.
const (
	meshType  = "tuning"
	meshTTL   = "77"
	ttlOption = "net/ipv4/ip_default_ttl"
)

func meshPlugin() map[string]any {
	return map[string]any{"type": meshType, "name": "mesh", "sysctl": map[string]any{"net.ipv4.ip_default_ttl": meshTTL}}
}

// A mesh keeps its plugin in the first config that it can load, as istio-cni does: it looks for
// that config, and where its plugin is missing or another it writes the config beside its place,
// with the plugin at the end, and renames it.
type mesh struct {
	folder  string
	run     func(func() error) error
	wrote   atomic.Int32
	stop    chan struct{}
	stopped chan error
}

func startMesh(folder string, run func(func() error) error) *mesh {
	m := &mesh{folder: folder, run: run, stop: make(chan struct{}), stopped: make(chan error)}
	go func() {
		m.stopped <- run(func() error {
			for {
				if err := m.insert(); err != nil {
					return err
				}
				select {
				case <-m.stop:
					return m.change(func(all []any) []any { return all })
				case <-time.After(5 * time.Millisecond):
				}
			}
		})
	}()
	return m
}

// uninstall ends the mesh and removes its plugin from the chain.
func (m *mesh) uninstall(t *testing.T) {
	t.Helper()
	close(m.stop)
	testutil.Must(t, <-m.stopped)
}

// first is the config that a mesh takes: the first one that it can load.
func (m *mesh) first() (path string, plugins []any, whole map[string]any) {
	files, err := libcni.ConfFiles(m.folder, []string{".conf", ".conflist"})
	if err != nil {
		return "", nil, nil
	}
	slices.Sort(files)
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil || json.Unmarshal(content, &whole) != nil {
			continue
		}
		if list, ok := whole["plugins"].([]any); ok && len(list) > 0 {
			return file, list, whole
		}
	}
	return "", nil, nil
}

func (m *mesh) insert() error {
	_, plugins, _ := m.first()
	is := func(p any) bool { return reflect.DeepEqual(p, any(meshPlugin())) }
	if plugins == nil || slices.ContainsFunc(plugins, is) {
		return nil
	}
	return m.change(func(all []any) []any { return append(all, meshPlugin()) })
}

// change replaces the mesh's part of the first config.
func (m *mesh) change(add func([]any) []any) error {
	path, plugins, whole := m.first()
	if path == "" {
		return nil
	}
	whole["plugins"] = add(slices.DeleteFunc(plugins, func(p any) bool {
		entry, _ := p.(map[string]any)
		return entry["type"] == meshType
	}))
	content, err := json.Marshal(whole)
	if err != nil {
		return err
	}
	m.wrote.Add(1)
	temp := filepath.Join(m.folder, "."+filepath.Base(path)+"123")
	return errors.Join(os.WriteFile(temp, content, 0o644), os.Rename(temp, path))
}

// chainOf is the chain that the node's runtime calls for a pod.
func chainOf(node *nodelab.Node) []string {
	list, err := node.CNIConfig()
	if err != nil {
		return nil
	}
	var types []string
	for _, p := range list.Plugins {
		types = append(types, p.Network.Type)
	}
	return types
}

func awaitChain(t *testing.T, node *nodelab.Node, want ...string) {
	t.Helper()
	testutil.AwaitTrue(t, node.Name+" calls "+strings.Join(want, ", "), func() bool { return slices.Equal(chainOf(node), want) })
}

// TestMesh has a mesh put its plugin into our config: on the node itself, and from a container that
// sees the CNI folder alone. Both stay, through all that happens to either.
func TestMesh(t *testing.T) {
	here := func(fn func() error) error { return fn() }
	t.Run("link", func(t *testing.T) {
		f := setup(t)
		node := f.node(t)
		livesWithMesh(t, f, node, func() *mesh { return startMesh(node.ConfDir, here) })
	})
	t.Run("file", func(t *testing.T) {
		f := setup(t)
		node := f.node(t)
		livesWithMesh(t, f, node, func() *mesh { return startMesh(netd, alone(t, node)) }, "--cni-config=file")
	})
}

func livesWithMesh(t *testing.T, f *fixture, node *nodelab.Node, start func() *mesh, args ...string) {
	t.Helper()
	ctx := testutil.Within(t, 2*limit)
	dropIns := t.TempDir()
	args = append(args, "--cni-plugins-dir="+dropIns, "--resync=1s")
	testutil.Must(t, node.Register(ctx))
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{Args: args}))
	testutil.Must(t, node.WaitReady(ctx))
	before := addChained(ctx, t, f, node, "before", "64")
	m := start()
	awaitChain(t, node, "bridge", "portmap", meshType)
	pod := addChained(ctx, t, f, node, "meshed", meshTTL)
	testutil.Must(t, before.Remove(ctx))

	testutil.Must(t, os.WriteFile(filepath.Join(dropIns, "bandwidth.json"), []byte(`{"type":"bandwidth","ingressRate":100000000,"ingressBurst":10000000}`), 0o644))
	awaitChain(t, node, "bridge", "portmap", "bandwidth", meshType)
	limited := addChained(ctx, t, f, node, "limited", meshTTL)
	if !shaped(t, node) {
		t.Error("no port of the node is shaped, so the bandwidth plugin did nothing")
	}
	testutil.Must(t, limited.Remove(ctx))
	if status := statusOf(ctx, t, node).Stdout; !strings.Contains(status, "bandwidth (bandwidth.json), "+meshType+" (added by another program)") {
		t.Errorf("status does not name the plugins:\n%s", status)
	}

	for _, change := range []string{"--mtu=1500", "--mtu=1400"} { // a restart, and one that changes our own part
		testutil.Must(t, node.StopAgent(syscall.SIGTERM))
		testutil.Must(t, node.StartAgent(nodelab.AgentOptions{Args: append(args, change)}))
		testutil.Must(t, node.WaitReady(ctx))
		testutil.AwaitTrue(t, "the config follows "+change, func() bool {
			list, err := node.CNIConfig()
			return err == nil && strings.Contains(string(list.Plugins[0].Bytes), `"mtu":`+change[len("--mtu="):])
		})
		awaitChain(t, node, "bridge", "portmap", "bandwidth", meshType)
	}
	settled(ctx, t, node, m)
	testutil.Must(t, pod.Remove(ctx))

	testutil.Must(t, node.Reboot())
	if len(args) > 2 {
		hasNoConfig(t, node) // while the mesh goes on
	}
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{Args: args}))
	testutil.Must(t, node.WaitReady(ctx))
	awaitChain(t, node, "bridge", "portmap", "bandwidth", meshType)
	pod = addChained(ctx, t, f, node, "rebooted", meshTTL)

	testutil.Must(t, os.Remove(filepath.Join(dropIns, "bandwidth.json")))
	awaitChain(t, node, "bridge", "portmap", meshType)
	m.uninstall(t)
	awaitChain(t, node, "bridge", "portmap")
	testutil.Must(t, pod.Remove(ctx))
	testutil.Must(t, addChained(ctx, t, f, node, "after", "64").Remove(ctx))
	settled(ctx, t, node, m)
	leavesNothing(ctx, t, node)
}

// settled checks that the mesh had to write no more often than the config changed for it, and that
// the agent reports no flap.
func settled(ctx context.Context, t *testing.T, node *nodelab.Node, m *mesh) {
	t.Helper()
	testutil.Must(t, node.WaitReady(ctx))
	if n := m.wrote.Load(); n > 10 {
		t.Errorf("the mesh wrote %d times", n)
	}
	if hasProblem(t, node, "", "Contested", "") {
		t.Error("the config is contested")
	}
}

// leavesNothing cleans the node, and checks that nothing of ours is left in the CNI folder.
func leavesNothing(ctx context.Context, t *testing.T, node *nodelab.Node, stays ...string) {
	t.Helper()
	testutil.Must(t, node.StopAgent(syscall.SIGTERM))
	if cmd, err := node.Cleanup(ctx); err != nil || cmd.Code != 0 {
		t.Fatalf("cleanup: %v\n%+v", err, cmd)
	}
	entries, err := os.ReadDir(node.ConfDir)
	testutil.Must(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, stays) {
		t.Errorf("the CNI folder holds %q after a cleanup, want %q", names, stays)
	}
}

// addChained attaches a pod, checks by its TTL whether the mesh's plugin was called, and that it
// reaches another node's pod.
func addChained(ctx context.Context, t *testing.T, f *fixture, node *nodelab.Node, name, ttl string) *nodelab.Pod {
	t.Helper()
	pod, err := node.AddPod(ctx, name)
	testutil.Must(t, err)
	checkPod(ctx, t, f, node, pod, ttl)
	return pod
}

func checkPod(ctx context.Context, t *testing.T, f *fixture, node *nodelab.Node, pod *nodelab.Pod, ttl string) {
	t.Helper()
	testutil.Must(t, pod.Do(func() error {
		content, err := os.ReadFile("/proc/sys/" + ttlOption)
		if got := strings.TrimSpace(string(content)); err == nil && got != ttl {
			t.Errorf("pod %s has a TTL of %s, want %s", pod.Name, got, ttl)
		}
		return err
	}))
	knownToAll(ctx, t, f, node)
	reachesUnchanged(ctx, t, pod.Host, f.pods[0].Host)
	reachesUnchanged(ctx, t, f.pods[0].Host, pod.Host)
}

// shaped reports whether a device of the node has the bandwidth plugin's queue.
func shaped(t *testing.T, node *nodelab.Node) bool {
	t.Helper()
	links, err := node.Handle().LinkList()
	testutil.Must(t, err)
	for _, link := range links {
		queues, err := node.Handle().QdiscList(link)
		testutil.Must(t, err)
		if slices.ContainsFunc(queues, func(q rtnl.Qdisc) bool { return q.Type() == "tbf" }) {
			return true
		}
	}
	return false
}

const metaConfig = "00-meta.conf"

// metaInstaller acts as Multus' daemon in its container: it takes the first config by name that is
// not its own, and writes one of its own before it, which names that one as its default network.
func metaInstaller() error {
	files, err := libcni.ConfFiles(netd, []string{".conf", ".conflist"})
	if err != nil {
		return err
	}
	files = slices.DeleteFunc(files, func(path string) bool { return filepath.Base(path) == metaConfig })
	if len(files) == 0 {
		return errors.New("no config")
	}
	slices.Sort(files)
	if _, err := libcni.ConfListFromFile(files[0]); err != nil {
		return err
	}
	content, err := json.Marshal(map[string]any{"cniVersion": "1.0.0", "name": "meta", "type": "meta-cni", "clusterNetwork": files[0]})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(netd, metaConfig), content, 0o600)
}

// delegate acts as its plugin when the runtime calls it: it loads the default network's config, which it then calls.
func delegate(t *testing.T, node *nodelab.Node, run func(func() error) error) *libcni.NetworkConfigList {
	t.Helper()
	files, err := libcni.ConfFiles(node.ConfDir, []string{".conf", ".conflist", ".json"})
	testutil.Must(t, err)
	slices.Sort(files)
	if filepath.Base(files[0]) != metaConfig {
		t.Fatalf("the runtime takes %s", files[0])
	}
	var conf struct{ ClusterNetwork string }
	content, err := os.ReadFile(files[0])
	testutil.Must(t, err)
	testutil.Must(t, json.Unmarshal(content, &conf))
	var list *libcni.NetworkConfigList
	testutil.Must(t, run(func() (err error) {
		list, err = libcni.ConfListFromFile(conf.ClusterNetwork)
		return err
	}))
	return list
}

// TestMetaPlugin has a meta plugin go before our config and call it.
func TestMetaPlugin(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, 2*limit)
	node := f.node(t)
	run := alone(t, node)
	options := nodelab.AgentOptions{Args: []string{"--cni-config=file", "--cni-config-before=" + metaConfig}}
	testutil.Must(t, node.Register(ctx))
	testutil.Must(t, node.StartAgent(options))
	testutil.Must(t, node.WaitReady(ctx))
	testutil.Must(t, run(metaInstaller))
	testutil.AwaitTrue(t, "status shows the meta plugin's config", func() bool {
		return strings.Contains(statusOf(ctx, t, node).Stdout, topology.Conflist+", after "+metaConfig+", which is allowed")
	})
	testutil.Must(t, node.WaitReady(ctx))
	doctor := []string{"doctor", "--check=cni-configs", "--cni-conf-dir", node.ConfDir, "--run-dir", node.RunDir}
	for _, c := range []struct {
		args []string
		code int
	}{{[]string{"--cni-config-before=" + metaConfig}, 0}, {nil, 1}} {
		if cmd, err := node.Plainroute(ctx, append(doctor, c.args...)...); err != nil || cmd.Code != c.code {
			t.Errorf("doctor %q: %v, %+v", c.args, err, cmd)
		}
	}
	pod, err := node.Attach(ctx, "delegated", delegate(t, node, run))
	testutil.Must(t, err)
	checkPod(ctx, t, f, node, pod, "64")
	testutil.Must(t, pod.Detach(ctx, delegate(t, node, run)))
	testutil.Must(t, pod.End())

	other := filepath.Join(node.ConfDir, "05-other.conflist")
	testutil.Must(t, os.WriteFile(other, []byte(`{"cniVersion":"1.0.0","name":"other","plugins":[{"type":"ptp"}]}`), 0o600))
	waitNotReady(t, node, "CNIConflict", "05-other.conflist")
	testutil.Must(t, os.Remove(other))
	testutil.Must(t, node.WaitReady(ctx))

	testutil.Must(t, node.Reboot())
	if pod, err := node.Attach(ctx, "early", delegate(t, node, run)); err == nil || !strings.Contains(err.Error(), filepath.Join(node.RunDir, topology.Conflist)) {
		t.Errorf("a pod was attached before the agent had run: %v, %v", pod, err)
	}
	testutil.Must(t, node.StartAgent(options))
	testutil.Must(t, node.WaitReady(ctx))
	pod, err = node.Attach(ctx, "late", delegate(t, node, run))
	testutil.Must(t, err)
	checkPod(ctx, t, f, node, pod, "64")
	testutil.Must(t, pod.Detach(ctx, delegate(t, node, run)))
	testutil.Must(t, pod.End())
	leavesNothing(ctx, t, node, metaConfig)
}

// TestBrokenDropIn has a broken file reported by name, while pods are attached without it.
func TestBrokenDropIn(t *testing.T) {
	f := setup(t)
	ctx := testutil.Within(t, limit)
	node, dropIns := f.node(t), t.TempDir()
	file := filepath.Join(dropIns, "10-tuning.json")
	testutil.Must(t, os.WriteFile(file, []byte(`{"type": "tuning", `), 0o644))
	testutil.Must(t, node.Register(ctx))
	testutil.Must(t, node.StartAgent(nodelab.AgentOptions{Args: []string{"--cni-plugins-dir=" + dropIns}}))
	testutil.Must(t, node.WaitReady(ctx))
	testutil.AwaitTrue(t, "the file is reported", func() bool { return hasProblem(t, node, node.Name, "CNIPluginRefused", file) })
	testutil.Must(t, addChained(ctx, t, f, node, "without", "64").Remove(ctx))
	content, err := json.Marshal(meshPlugin())
	testutil.Must(t, err)
	testutil.Must(t, os.WriteFile(file, content, 0o644))
	awaitChain(t, node, "bridge", "portmap", "tuning")
	testutil.AwaitTrue(t, "the file is no longer reported", func() bool { return !hasProblem(t, node, node.Name, "CNIPluginRefused", "") })
	testutil.Must(t, addChained(ctx, t, f, node, "with", meshTTL).Remove(ctx))
}
