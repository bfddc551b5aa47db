package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

const notInitialized = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized"

// The Node's condition for a runtime without a network counts once our config has been in place for
// some time.
func TestConfigThatIsNotLoaded(t *testing.T) {
	w := newTestbed(t)
	ready := corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionFalse, Message: notInitialized}
	w.Nodes = []corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "node1"}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{ready}}}}
	w.finds("cni-configs", problem.None) // none of ours is there
	w.must(w.Store.Write(topology.CNI{Bridge: topology.Bridge, MTU: 1500}))
	w.look()
	w.finds("cni-configs", problem.None)
	w.age(filepath.Join(w.Store.ConfDir, topology.Conflist))
	f := w.finds("cni-configs", problem.Error)
	if !strings.Contains(f.Evidence, "cni plugin not initialized") || !strings.Contains(f.Remediation, "cni.confDir") || !strings.Contains(f.Remediation, "crictl info") {
		t.Errorf("found %+v", f)
	}
	ready.Status, ready.Message = corev1.ConditionTrue, "kubelet is posting ready status"
	w.Nodes[0].Status.Conditions = []corev1.NodeCondition{ready}
	w.finds("cni-configs", problem.None)
	ready.Status, ready.Message = corev1.ConditionFalse, "PLEG is not healthy"
	w.Nodes[0].Status.Conditions = []corev1.NodeCondition{ready}
	w.finds("cni-configs", problem.None)
}

// If the host's files are visible, the runtime's own settings determine its folders.
func TestRuntimeUsesOtherFolders(t *testing.T) {
	for name, c := range map[string]struct {
		socket, file, content, check string
		want                         problem.Severity
		evidence                     string
	}{
		"containerd reads ours":       {"run/containerd/containerd.sock", "etc/containerd/config.toml", "[plugins.cni]\n  conf_dir = \"/etc/cni/net.d\"\n", "cni-configs", problem.None, ""},
		"containerd reads another":    {"run/containerd/containerd.sock", "etc/containerd/config.toml", "  conf_dir = '/var/lib/cni/net.d/'\n", "cni-configs", problem.Error, "/etc/containerd/config.toml has /var/lib/cni/net.d, and plainroute uses /etc/cni/net.d"},
		"another key":                 {"run/containerd/containerd.sock", "etc/containerd/config.toml", "cni_conf_dir = \"/x\"\n# conf_dir = \"/y\"\n", "cni-configs", problem.None, ""},
		"containerd does not run":     {"run/crio/crio.sock", "etc/containerd/config.toml", "conf_dir = \"/x\"\n", "cni-configs", problem.None, ""},
		"CRI-O reads another":         {"run/crio/crio.sock", "etc/crio/crio.conf.d/10-net", "network_dir = \"/x\"\n", "cni-configs", problem.Error, "/etc/crio/crio.conf.d/10-net has /x"},
		"CRI-O executes ours too":     {"run/crio/crio.sock", "etc/crio/crio.conf", "plugin_dirs = [\n\t\"/usr/libexec/cni\",\n\t\"/opt/cni/bin/\",\n]\n", "cni-plugins", problem.None, ""},
		"containerd executes others":  {"run/containerd/containerd.sock", "etc/containerd/config.toml", "bin_dirs = [\"/usr/lib/cni\", '/x']\n", "cni-plugins", problem.Error, "has /usr/lib/cni, /x, and plainroute uses /opt/cni/bin"},
		"containerd's default is set": {"run/containerd/containerd.sock", "etc/containerd/config.toml", "bin_dir = \"\"\n", "cni-plugins", problem.None, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTestbed(t)
			confDir, binDir := w.Path("etc/cni/net.d"), w.Path("opt/cni/bin")
			w.must(os.MkdirAll(confDir, 0o755))
			w.must(os.MkdirAll(filepath.Dir(binDir), 0o755))
			w.must(os.Rename(w.BinDir, binDir))
			w.Store.ConfDir, w.BinDir = confDir, binDir
			w.write(w.Path(c.socket), "")
			w.write(w.Path(c.file), c.content)
			w.finds(c.check, problem.None) // these are not the host's files
			w.write(w.Path("etc/os-release"), "")
			if f := w.finds(c.check, c.want); !strings.Contains(f.Evidence, c.evidence) {
				t.Errorf("found %+v", f)
			}
		})
	}
}

// A subnet without room for a pod is not counted as one that runs out of addresses.
func TestLeasesWithoutRoom(t *testing.T) {
	for _, subnet := range []string{"10.244.1.0/32", "10.244.1.0/31", "fd00:10:244::/127", "fd00:10:244::/64"} {
		w := newTestbed(t)
		w.Report = nil
		w.Nodes = []corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "node1"}, Spec: corev1.NodeSpec{PodCIDRs: []string{subnet}}}}
		w.finds("leases", problem.None)
	}
}

// A run folder in which no file can be made, so that host-local can't lease an address.
func TestUnwritableRunFolder(t *testing.T) {
	for options, message := range map[string]string{"size=4k": "is full", "nr_inodes=2": "has no inode left", "": "is read-only"} {
		w := newTestbed(t)
		if err := unix.Mount("tmpfs", w.Store.RunDir, "tmpfs", 0, options); err != nil {
			t.Skipf("can't mount here: %v", err)
		}
		t.Cleanup(func() { w.must(unix.Unmount(w.Store.RunDir, unix.MNT_DETACH)) })
		w.finds("leases", problem.None)
		w.must(os.WriteFile(filepath.Join(w.Store.RunDir, "other"), make([]byte, 4096), 0o600))
		if options == "" {
			w.must(unix.Mount("", w.Store.RunDir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
		}
		if f := w.finds("leases", problem.Error); !strings.Contains(f.Evidence, message) {
			t.Errorf("found %+v", f)
		}
	}
}

// age makes a file older than any new file.
func (w *testbed) age(path string) {
	w.t.Helper()
	old := unix.NsecToTimespec(time.Now().Add(-time.Hour).UnixNano())
	w.must(unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{old, old}, unix.AT_SYMLINK_NOFOLLOW))
}
