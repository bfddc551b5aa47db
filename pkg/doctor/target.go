package doctor

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
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
	Root    string // the folder with the host's files: /, or a mount point of it in a pod
	ProcSys string // the root of the kernel's settings
	// Store has the folder of our CNI config, BinDir is the folder of the plugins, and Offered that
	// of the image's plugins, which install-cni copies.
	Store           cni.Store
	BinDir, Offered string
	ConfigsBefore   []string           // names of CNI configs that may come before ours
	Bridge          string             // the name of the pods' bridge
	Node            string             // the name of our own Node, "" if it is unknown
	Kernel          *inspect.Inspector // reads from the network namespace what is not plainroute's
	// Host and State are what the dataplane reads from the kernel: foreign objects and ours.
	Host      topology.Host
	State     topology.State
	KernelErr error
	Report    *status.Report // the agent's
	ReportErr error
	Nodes     []corev1.Node // all of the cluster, from the API server
	NodesErr  error
	API       *rest.Config // for the API server, nil if it is unknown

	sweep sweep // of the peers
}

func errorText(err error) string {
	if err == nil {
		return "not requested"
	}
	return err.Error()
}

// Setting returns the value of a setting by its path below /proc/sys.
func (t *Target) Setting(path string) (string, error) {
	b, err := os.ReadFile(filepath.Join(t.ProcSys, path))
	return strings.TrimSpace(string(b)), err
}

func (t *Target) number(path string) (int, error) {
	value, err := t.Setting(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(value)
}

// onHost returns the path of a file on the host itself, without Root.
func (t *Target) onHost(path string) string {
	return filepath.Join("/", strings.TrimPrefix(path, filepath.Clean(t.Root)))
}

// Path returns the path of a host's file below Root.
func (t *Target) Path(path string) string { return filepath.Join(t.Root, path) }

// glob returns the host's files that match the patterns.
func (t *Target) glob(patterns ...string) []string {
	var all []string
	for _, pattern := range patterns {
		files, _ := filepath.Glob(t.Path(pattern)) // no pattern here is malformed
		all = append(all, files...)
	}
	return all
}

func (t *Target) exists(file string) bool {
	_, err := os.Stat(t.Path(file))
	return err == nil
}

// seesHost reports whether Root has all files of the host: in the agent's pod only a few are mounted.
func (t *Target) seesHost() bool { return t.exists("/etc/os-release") }

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

// ownSubnets returns our own pod subnets, by the agent's report or else by our Node.
func (t *Target) ownSubnets() []netip.Prefix {
	if t.Report != nil && len(t.Report.Host.Subnets) > 0 {
		return t.Report.Host.Subnets
	}
	if own := t.OwnNode(); own != nil {
		return topology.NodeFrom(own).PodCIDRs
	}
	return nil
}

// theSubnetsAre ends a piece of evidence with our own pod subnets.
func (t *Target) theSubnetsAre() string {
	return "; the subnets are " + strings.Join(mapped(t.ownSubnets(), netip.Prefix.String), ", ")
}

func within(subnets []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(subnets, func(s netip.Prefix) bool { return s.Contains(addr) })
}

// hasAddr reports whether a link of this host has an address.
func (t *Target) hasAddr(addr netip.Addr) bool {
	return slices.ContainsFunc(t.Host.Links, func(l topology.Link) bool {
		return slices.ContainsFunc(l.Addrs, func(p netip.Prefix) bool { return p.Addr() == addr })
	})
}

// uplinks returns the names of the links with the InternalIPs.
func (t *Target) uplinks() []string {
	if t.Report == nil {
		return nil
	}
	return mapped(t.Report.Host.Uplinks, func(u status.Uplink) string { return u.Name })
}

func mapped[T, U any](items []T, f func(T) U) []U {
	var all []U
	for _, item := range items {
		all = append(all, f(item))
	}
	return all
}

// families returns the families of the pods' addresses, IPv4 if they are unknown.
func (t *Target) families() []int {
	var families []int
	for _, s := range t.ownSubnets() {
		if f := familyOf(s.Addr()); !slices.Contains(families, f) {
			families = append(families, f)
		}
	}
	if len(families) == 0 {
		return []int{4}
	}
	return families
}

func familyOf(addr netip.Addr) int {
	if addr.Is4() {
		return 4
	}
	return 6
}
