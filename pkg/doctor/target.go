package doctor

import (
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/inspect"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// A Target is the node that the checks examine, and all that they read. A part that could not be
// read is nil, and the error field next to it has the reason.
type Target struct {
	// Root is the folder with the host's files: /, or a mount point of it in a pod.
	Root string
	// ProcSys is the root of the kernel's settings.
	ProcSys string
	// Store has the folder of our CNI config, BinDir is the folder of the plugins, and Offered that
	// of the image's plugins, which install-cni copies.
	Store   cni.Store
	BinDir  string
	Offered string
	// ConfigsBefore are names of CNI configs that may come before ours.
	ConfigsBefore []string
	// Bridge is the name of the pods' bridge.
	Bridge string
	// Node is the name of our own Node, "" if it is unknown.
	Node string
	// Kernel reads from the network namespace what is not plainroute's.
	Kernel *inspect.Inspector
	// Host and State are what the dataplane reads from the kernel: foreign objects and ours.
	Host      topology.Host
	State     topology.State
	KernelErr error
	// Report is the agent's status.
	Report    *status.Report
	ReportErr error
	// Nodes are all Nodes of the cluster, from the API server.
	Nodes    []corev1.Node
	NodesErr error
	// API is the client configuration for the API server, nil if it is unknown.
	API *rest.Config

	sweep sweep // the visit to the peers
}

// Setting returns the value of a setting by its path below /proc/sys.
func (t *Target) Setting(path string) (string, error) {
	b, err := os.ReadFile(filepath.Join(t.ProcSys, path))
	return strings.TrimSpace(string(b)), err
}

// onHost returns the path of a file on the host itself, without Root.
func (t *Target) onHost(path string) string {
	return filepath.Join("/", strings.TrimPrefix(path, filepath.Clean(t.Root)))
}

// Path returns the path of a host's file below Root.
func (t *Target) Path(path string) string { return filepath.Join(t.Root, path) }

// seesHost reports whether Root has all files of the host: in the agent's pod only a few are
// mounted.
func (t *Target) seesHost() bool {
	_, err := os.Stat(t.Path("/etc/os-release"))
	return err == nil
}

// fromHost is the remediation for a check that needs the host's files.
const fromHost = "run it where the host's files are: kubectl debug node/NODE -it --profile=sysadmin --image=IMAGE -- /plainroute doctor --root /host"

// OwnNode returns our own Node, nil if it is unknown.
func (t *Target) OwnNode() *corev1.Node {
	for i := range t.Nodes {
		if t.Nodes[i].Name == t.Node {
			return &t.Nodes[i]
		}
	}
	return nil
}

// Subnets returns our own pod subnets, by the agent's report or else by our Node.
func (t *Target) Subnets() []string {
	var all []string
	if t.Report != nil {
		for _, s := range t.Report.Host.Subnets {
			all = append(all, s.String())
		}
	}
	if own := t.OwnNode(); len(all) == 0 && own != nil {
		all = own.Spec.PodCIDRs
	}
	return all
}
