package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/text"
	"github.com/plainroute/plainroute/pkg/topology"
)

type planFlags struct {
	networkFlags
	file, node, host, link, output string
}

func planCommand() *cobra.Command {
	f := &planFlags{}
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Print what the agent would do, without doing it",
		Long: `plan computes the same as the agent does, offline: from Node objects, it prints
the routes, the nftables table and the CNI config of one node or of all, and
every Problem. It needs no root, and with --filename no cluster.

A Node object does not contain the node's links. Unless --host describes them, plan
assumes that all Nodes are on one link, --link, with an MTU of 1500.`,
		Example: `  # The cluster of kubectl's current context
  kubectl get nodes -o yaml | plainroute plan --filename - --cluster-cidr 10.244.0.0/16

  # One node, with that machine's links and routes
  plainroute plan --filename nodes.yaml --node node1 --host host.yaml

  # From the cluster, as JSON
  plainroute plan --kubeconfig ~/.kube/config -o json`,
		Annotations: map[string]string{readOnly: ""},
		RunE:        f.run,
	}
	fs := cmd.Flags()
	f.register(cmd)
	fs.StringVarP(&f.file, "filename", "f", "", "file of Nodes in YAML or JSON, - for standard input (default: the cluster)")
	fs.StringVar(&f.node, "node", "", "plan for this Node alone (default: all)")
	fs.StringVar(&f.host, "host", "", "file with the node's links, foreign routes and nameservers; needs --node")
	fs.StringVar(&f.link, "link", "eth0", "name of the link that all Nodes are assumed to be on")
	chooseOutput(cmd, &f.output, "text")
	return cmd
}

// nodePlan is the desired State of one node.
type nodePlan struct {
	metav1.TypeMeta `json:",inline"`
	Node            string            `json:"node"`
	State           topology.State    `json:"state"`
	Problems        []problem.Problem `json:"problems"`
}

func (f *planFlags) run(cmd *cobra.Command, _ []string) error {
	errs := environment(cmd.Flags())
	opts, more := f.options()
	errs = slices.Concat(errs, more, checkFlags(cmd.Flags()))
	if f.host != "" && f.node == "" {
		errs = append(errs, errors.New("--host describes one machine: name it with --node"))
	}
	if err := invalidFlags(errs...); err != nil {
		return err
	}
	nodes, err := f.nodes(cmd.Context(), cmd.InOrStdin())
	if err != nil {
		return err
	}
	plans, err := f.plans(opts, nodes)
	if err != nil {
		return err
	}
	if f.output == "json" {
		return text.WriteJSON(cmd.OutOrStdout(), plans)
	}
	for _, p := range plans {
		if err := p.print(cmd.OutOrStdout()); err != nil {
			return err
		}
	}
	return nil
}

// nodes reads the Nodes, without those of --ignore-nodes, sorted by name.
func (f *planFlags) nodes(ctx context.Context, stdin io.Reader) ([]*topology.Node, error) {
	var nodes []*topology.Node
	err := f.eachObject(ctx, stdin, func(object *corev1.Node) error {
		if len(validation.IsDNS1123Subdomain(object.Name)) > 0 {
			return fmt.Errorf("the input has a Node with the invalid name %q", object.Name)
		}
		if f.ignoreNodesSelector == nil || !f.ignoreNodesSelector.Matches(labels.Set(object.Labels)) {
			nodes = append(nodes, topology.NodeFrom(object))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(nodes) == 0 {
		return nil, errors.New("the input has no Nodes")
	}
	slices.SortFunc(nodes, func(a, b *topology.Node) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(nodes); i++ {
		if nodes[i].Name == nodes[i-1].Name {
			return nil, fmt.Errorf("the input has node %s twice", nodes[i].Name)
		}
	}
	return nodes, nil
}

// eachObject calls do with each Node of the input, of which there may be many.
func (f *planFlags) eachObject(ctx context.Context, stdin io.Reader, do func(*corev1.Node) error) error {
	switch f.file {
	case "":
		return f.eachOfCluster(ctx, do)
	case "-":
		return readNodes(stdin, do)
	}
	file, err := os.Open(f.file)
	if err != nil {
		return fmt.Errorf("reading Nodes: %w", err)
	}
	defer file.Close()
	return readNodes(file, do)
}

func (f *planFlags) eachOfCluster(ctx context.Context, do func(*corev1.Node) error) error {
	client, err := clientOf(f.kubeconfig)
	if err != nil {
		return fmt.Errorf("%w; or give --filename FILE", err)
	}
	list, err := client.Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("listing Nodes: %w", err)
	}
	for i := range list.Items {
		if err := do(&list.Items[i]); err != nil {
			return err
		}
	}
	return nil
}

// readNodes reads YAML documents or JSON values, each a Node or a list with Nodes.
func readNodes(r io.Reader, do func(*corev1.Node) error) error {
	documents := yaml.NewYAMLOrJSONDecoder(r, 4096)
	for {
		var raw json.RawMessage
		err := documents.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil && len(raw) > 0 && string(raw) != "null" {
			err = eachNode(raw, do)
		}
		if err != nil {
			return fmt.Errorf("reading Nodes: %w", err)
		}
	}
}

func eachNode(raw json.RawMessage, do func(*corev1.Node) error) error {
	var list struct {
		Kind  string            `json:"kind"`
		Items []json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return err
	}
	switch list.Kind {
	case "Node":
		list.Items = []json.RawMessage{raw}
	case "List", "NodeList":
	default:
		return fmt.Errorf("found a %q where a Node or a list of Nodes is expected", list.Kind)
	}
	for _, item := range list.Items {
		var node corev1.Node
		err := json.Unmarshal(item, &node)
		if err == nil && (node.Kind == "Node" || node.Kind == "" && list.Kind == "NodeList") {
			err = do(&node)
		}
		if err != nil {
			return fmt.Errorf("reading a Node: %w", err)
		}
	}
	return nil
}

// plans computes the desired state of each node, or of the one that --node names.
func (f *planFlags) plans(opts topology.Options, nodes []*topology.Node) ([]nodePlan, error) {
	var plans []nodePlan
	for _, n := range nodes {
		if f.node != "" && n.Name != f.node {
			continue
		}
		host, err := f.hostOf(n, nodes)
		if err != nil {
			return nil, err
		}
		opts.NodeName = n.Name
		state, problems := topology.Desired(opts, host, nodes, freshState(f.bridge, host))
		plans = append(plans, nodePlan{status.TypeMeta("NodePlan"), n.Name, state, problem.Complete(problems)})
	}
	if len(plans) == 0 {
		return nil, fmt.Errorf("the input has no Node %q", f.node)
	}
	return plans, nil
}

// hostOf reads --host, or returns a host with all Nodes on one link.
func (f *planFlags) hostOf(n *topology.Node, nodes []*topology.Node) (topology.Host, error) {
	if f.host != "" {
		return readHost(f.host)
	}
	link := topology.Link{Name: f.link, MTU: 1500}
	for _, addr := range n.Addrs {
		link.Addrs = append(link.Addrs, netip.PrefixFrom(addr, addr.BitLen()))
	}
	host := topology.Host{Links: []topology.Link{link}}
	for _, peer := range nodes {
		for _, addr := range peer.Addrs {
			if peer != n {
				host.Routes = append(host.Routes, topology.Route{Dst: netip.PrefixFrom(addr, addr.BitLen()), Dev: f.link})
			}
		}
	}
	return host, nil
}

func readHost(file string) (topology.Host, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return topology.Host{}, fmt.Errorf("reading --host: %w", err)
	}
	var host topology.Host
	if err := sigsyaml.UnmarshalStrict(b, &host); err != nil {
		return topology.Host{}, fmt.Errorf("reading --host %s: %w", file, err)
	}
	return host, nil
}

// freshState returns the state of a host with all settings of its kernel and none of our objects.
func freshState(bridge string, host topology.Host) topology.State {
	sysctls := map[string]string{
		topology.SysctlForward4: "0", topology.SysctlForward6: "0", topology.SysctlBridgeNF4: "0", topology.SysctlBridgeNF6: "0",
		topology.ConfSysctl(6, bridge, "disable_ipv6"): "0",
	}
	for _, link := range append([]topology.Link{{Name: bridge}}, host.Links...) {
		sysctls[topology.ConfSysctl(6, link.Name, "accept_ra")] = "1"
		sysctls[topology.ConfSysctl(4, link.Name, "forwarding")] = "0"
		sysctls[topology.ConfSysctl(6, link.Name, "forwarding")] = "0"
	}
	for _, family := range []int{4, 6} {
		for i, limit := range []string{"128", "512", "1024"} { // neigh_table of net/ipv4/arp.c and net/ipv6/ndisc.c
			sysctls[topology.NeighSysctl(family, i+1)] = limit
		}
	}
	if host.NoIPv6 {
		maps.DeleteFunc(sysctls, func(path, _ string) bool { return strings.HasPrefix(path, "net/ipv6/") })
	}
	return topology.State{Sysctls: sysctls}
}

// print prints the plan as shell commands.
func (p nodePlan) print(w io.Writer) error {
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "# Node %s\n", p.Node)
	problem.Printer{All: true, Prefix: "# "}.Print(b, problem.Grouped(p.Problems))
	for _, change := range plan.Diff(p.State, topology.State{}) {
		if conf, ok := change.Object.(plan.Config); ok {
			text, err := cni.Render(*conf.CNI)
			if err != nil {
				return err
			}
			fmt.Fprintf(b, "cat >/etc/cni/net.d/%s <<'EOF'\n%sEOF\n", topology.Conflist, text)
			continue
		}
		fmt.Fprintln(b, change)
	}
	fmt.Fprintln(b)
	return b.Flush()
}
