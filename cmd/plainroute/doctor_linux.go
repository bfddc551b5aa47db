//go:build linux

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/diagnosis"
	"github.com/plainroute/plainroute/pkg/doctor"
	"github.com/plainroute/plainroute/pkg/fleet"
	"github.com/plainroute/plainroute/pkg/inspect"
	"github.com/plainroute/plainroute/pkg/kube"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// nodeDoctor are the flags for the node that doctor runs on.
type nodeDoctor struct {
	nodeFlags
	root string
	list bool
}

const imagePlugins = "/cni" // the folder of the stock CNI plugins in the image (hack/make-image.sh)

func (f *doctorFlags) registerNode(cmd *cobra.Command) {
	fs := pflag.NewFlagSet("node", pflag.ContinueOnError)
	fs.StringVar(&f.root, "root", "/", "folder of the host's files; with kubectl debug node it is /host")
	f.declare(fs, "proc-sys", "run-dir", "cni-conf-dir", "cni-bin-dir", "bridge", "listen", "node-name", beforeFlag)
	f.node = fs
	cmd.Flags().AddFlagSet(fs)
	cmd.Flags().BoolVar(&f.list, "list", false, "list the checks")
}

// ofNode examines this node, or lists the checks.
func (f *doctorFlags) ofNode(cmd *cobra.Command) error {
	checks, err := f.validate(cmd)
	if err != nil {
		return err
	}
	if f.list {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), strings.Join(problem.Checks(), "\n"))
		return err
	}
	target := f.target(cmd.Context())
	if target.Kernel != nil {
		defer target.Kernel.Close()
	}
	passed, problems := doctor.Examine(cmd.Context(), target, checks)
	report := diagnosis.NewReport(target.Node, passed, problems)
	return shown(report.OK(), report.Print(cmd.OutOrStdout(), f.format(cmd)))
}

func (f *doctorFlags) validate(cmd *cobra.Command) ([]doctor.Check, error) {
	errs := append(f.environment(cmd), f.check()...)
	for name, path := range map[string]*string{"cni-conf-dir": &f.cniConfDir, "run-dir": &f.runDir, "cni-bin-dir": &f.cniBinDir} {
		if !cmd.Flags().Changed(name) {
			*path = filepath.Join(f.root, *path)
		}
	}
	checks := doctor.Checks()
	if len(f.checks) > 0 {
		checks = slices.DeleteFunc(checks, func(c doctor.Check) bool { return !slices.Contains(f.checks, c.Name) })
	}
	f.nodeName = cmp.Or(f.nodeName, os.Getenv("NODE_NAME"))
	return checks, invalidFlags(append(errs, checkFlags(f.node)...)...)
}

// environment sets the flags that the environment of an agent's pod may set for its agent.
func (f *doctorFlags) environment(cmd *cobra.Command) []error {
	for _, name := range []string{"kubeconfig", "check", "verbose", "output"} {
		f.node.AddFlag(cmd.Flags().Lookup(name))
	}
	return environment(f.node)
}

// target reads all that the checks need. Checks report what can't be read.
func (f *doctorFlags) target(ctx context.Context) *doctor.Target {
	p := &doctor.Target{
		Root: f.root, ProcSys: f.procSys, BinDir: f.cniBinDir, Offered: imagePlugins, Bridge: f.bridge, Node: f.nodeName,
		Store: cni.Store{ConfDir: f.cniConfDir, RunDir: f.runDir}, ConfigsBefore: f.cniBefore,
	}
	p.Report, p.ReportErr = askAgent(ctx, f.listen, 5*time.Second, true)
	if p.API, p.NodesErr = restConfig(f.kubeconfig); p.NodesErr == nil {
		p.Nodes, p.NodesErr = nodesOfCluster(ctx, p.API)
	}
	if p.Bridge == "" && p.Report != nil {
		p.Bridge = p.Report.Host.Bridge
	}
	p.Host, p.State, p.KernelErr = f.inspect(ctx, p)
	p.Bridge = cmp.Or(p.Bridge, bridgeOf(p.State), topology.Bridge)
	if inspector, err := inspect.New(); err == nil {
		p.Kernel = inspector
	} else {
		p.KernelErr = errors.Join(p.KernelErr, err)
	}
	return p
}

func (f *doctorFlags) inspect(ctx context.Context, p *doctor.Target) (topology.Host, topology.State, error) {
	config := f.hostConfig()
	config.Bridge = p.Bridge
	if p.Report != nil {
		config.RouteTable = p.Report.State.RouteTable
	}
	host, err := openHost(ctx, config)
	if err != nil {
		return topology.Host{}, topology.State{}, err
	}
	ours, err := host.Observe(ctx)
	if err != nil {
		return topology.Host{}, topology.State{}, errors.Join(err, host.Close())
	}
	host.concerns = concerns(p, ours)
	facts, state, err := host.Inspect(ctx)
	return facts, state, errors.Join(err, host.Close())
}

// concerns returns the ranges in which foreign routes matter, from the Nodes, the agent's report, and
// our own routes.
func concerns(p *doctor.Target, ours topology.State) []netip.Prefix {
	var nodes []*topology.Node
	add := func(name string, subnets []netip.Prefix, addrs ...netip.Addr) {
		nodes = append(nodes, &topology.Node{Name: name, PodCIDRs: subnets, Addrs: addrs})
	}
	for i := range p.Nodes {
		n := topology.NodeFrom(&p.Nodes[i])
		add(n.Name, n.PodCIDRs, n.Addrs...)
	}
	opts := topology.Options{NodeName: p.Node}
	if p.Report != nil {
		opts.ClusterCIDRs = p.Report.Host.ClusterCIDRs
		add(p.Report.Node, p.Report.Host.Subnets, p.Report.Host.Addresses...)
		for i := range p.Report.Peers {
			add(p.Report.Peers[i].Node, []netip.Prefix{p.Report.Peers[i].Subnet})
		}
	}
	var routed []netip.Prefix
	for _, r := range ours.Routes {
		routed = append(routed, r.Dst)
		if r.Via.IsValid() {
			add("", nil, r.Via)
		}
	}
	return topology.Outermost(append(topology.Concerns(opts, nodes), routed...))
}

// nodesOfCluster lists the Nodes in pages, with the agent's rights, and keeps what the checks need.
// 5,000 whole Nodes at once would exceed the memory limit that doctor shares with its agent, and
// the kernel would kill both (memory.oom.group).
func nodesOfCluster(ctx context.Context, config *rest.Config) ([]corev1.Node, error) {
	config = rest.CopyConfig(config)
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON // half as large
	client, err := kube.New(config)
	if err != nil {
		return nil, err
	}
	page := func(ctx context.Context, options metav1.ListOptions) (*corev1.NodeList, error) {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second) // a large cluster has many pages
		defer cancel()
		return client.Nodes().List(ctx, options)
	}
	nodes := []corev1.Node{} // not nil: none is not unknown
	err = fleet.Each(ctx, page, metav1.ListOptions{}, func(n *corev1.Node) { nodes = append(nodes, examined(n)) })
	if err != nil {
		return nil, fmt.Errorf("listing Nodes: %w", err)
	}
	return nodes, nil
}

// examined returns the fields that checks read, without the names of images, which are most of a
// Node.
func examined(n *corev1.Node) corev1.Node {
	var managed []metav1.ManagedFieldsEntry
	for _, m := range n.ManagedFields {
		managed = append(managed, metav1.ManagedFieldsEntry{Manager: m.Manager, Subresource: m.Subresource, Time: m.Time})
	}
	return corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: n.Labels, ManagedFields: managed},
		Spec:       n.Spec,
		Status: corev1.NodeStatus{
			Addresses: n.Status.Addresses, Conditions: n.Status.Conditions, DaemonEndpoints: n.Status.DaemonEndpoints, NodeInfo: n.Status.NodeInfo,
		},
	}
}
