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

// Patient is what the checks look at. What could not be learnt is nil, and the error
// beside it says why.
type Patient struct {
	// Root is the folder of the host's files: /, or where a pod has them mounted.
	Root string
	// ProcSys is the root of the kernel's settings.
	ProcSys string
	// Store is where our CNI config lives, BinDir where the plugins do, and Offered where
	// the image has those that install-cni installs.
	Store   cni.Store
	BinDir  string
	Offered string
	// ConfigsBefore are names of CNI configs that are wanted before ours.
	ConfigsBefore []string
	// Bridge is the name of the pods' bridge.
	Bridge string
	// Node is the name of our own Node; empty: unknown.
	Node string
	// Kernel looks at the network namespace.
	Kernel *inspect.Inspector
	// Host and State are what the kernel holds: others' things and ours.
	Host      topology.Host
	State     topology.State
	KernelErr error
	// Report is the agent's.
	Report    *status.Report
	ReportErr error
	// Nodes are all there are, as the API server has them.
	Nodes    []corev1.Node
	NodesErr error
	// API is how the API server is asked; nil: nobody knows.
	API *rest.Config

	round round // the visit to the peers
}

// Setting reads a setting by its path below /proc/sys.
func (p *Patient) Setting(path string) (string, error) {
	b, err := os.ReadFile(filepath.Join(p.ProcSys, path))
	return strings.TrimSpace(string(b)), err
}

// onHost is a path as the host has it.
func (p *Patient) onHost(path string) string {
	return filepath.Join("/", strings.TrimPrefix(path, filepath.Clean(p.Root)))
}

// Path is that of a file of the host.
func (p *Patient) Path(path string) string { return filepath.Join(p.Root, path) }

// seesHost tells whether the files of the host can be seen at all: in the agent's pod
// there are but those that are mounted.
func (p *Patient) seesHost() bool {
	_, err := os.Stat(p.Path("/etc/os-release"))
	return err == nil
}

// fromHost says how to run a check so that it sees the host's files.
const fromHost = "run it where the host's files are: kubectl debug node/NODE -it --profile=sysadmin --image=IMAGE -- /plainroute doctor --root /host"

// OwnNode is our own Node, if it is known.
func (p *Patient) OwnNode() *corev1.Node {
	for i := range p.Nodes {
		if p.Nodes[i].Name == p.Node {
			return &p.Nodes[i]
		}
	}
	return nil
}

// Subnets are our own pod subnets, as far as anybody knows them, in words of ip(8).
func (p *Patient) Subnets() []string {
	var all []string
	if p.Report != nil {
		for _, s := range p.Report.Host.Subnets {
			all = append(all, s.String())
		}
	}
	if own := p.OwnNode(); len(all) == 0 && own != nil {
		all = own.Spec.PodCIDRs
	}
	return all
}
