package doctor

import (
	"context"

	"github.com/plainroute/plainroute/pkg/problem"
)

// Check looks for one kind of problem.
type Check struct {
	// Name is the value for --check. docs/doctor.md has a row for each, with what the check looks at.
	Name string
	// Run returns the problems that it found, nil if there are none. It returns early when the
	// context ends.
	Run func(context.Context, *Target) []problem.Problem
}

// Checks returns all checks, in the order in which their results are printed. This is the only list
// of them: pkg/problem/checks.txt, for workstations on which this package does not compile, is a copy
// that `go test ./pkg/doctor -run TestNamesAreUnique -update` makes.
func Checks() []Check {
	return []Check{
		{"agent", agentProblems},
		{"capabilities", capabilities},
		{"forwarding", forwarding},
		{"rp-filter", reversePath},
		{"bridge-netfilter", bridgeNetfilter},
		{"forward-policy", with(needInspector, forwardPolicy)},
		{"foreign-routes", with(needState, foreignRoutes)},
		{"policy-rules", with(needState|needInspector, policyRules)},
		{"cni-configs", cniConfigs},
		{"cni-plugins", cniPlugins},
		{"leftovers", with(needState|needInspector, leftovers)},
		{"neighbors", with(needInspector|needPeers, neighbors)},
		{"mac-addresses", with(needInspector|needPeers, macAddresses)},
		{"path-mtu", with(needPeers, pathMTU)},
		{"pod-packets", with(needPeers, podPackets)},
		{"neighbor-limits", with(needInspector, neighborLimits)},
		{"conntrack", conntrack},
		{"duplicates", with(needNodes, duplicates)},
		{"ports", ports},
		{"node-ports", nodePorts},
		{"clocks", clocks},
		{"network-managers", networkManagers},
		{"bridge-address", with(needState|needSubnets, bridgeAddress)},
		{"leases", with(needState|needInspector, leakedLeases)},
		{"old-subnet", with(needSubnets, oldSubnet)},
	}
}

// A need is a part of the Target without which a check is skipped.
type need int

const (
	needInspector need = 1 << iota // foreign objects of the kernel
	needState                      // Host and State
	needSubnets                    // this node's pod subnets
	needNodes                      // from the API server
	needPeers                      // the sweep of them
)

// with returns a check's function that returns the reason if the Target lacks what it needs.
func with(n need, run func(context.Context, *Target) []problem.Problem) func(context.Context, *Target) []problem.Problem {
	return func(ctx context.Context, t *Target) []problem.Problem {
		switch {
		case n&needInspector != 0 && t.Kernel == nil, n&needState != 0 && t.KernelErr != nil:
			return Skip("the kernel can't be read: "+errorText(t.KernelErr), "")
		case n&needSubnets != 0 && len(t.ownSubnets()) == 0:
			return Skip("this node's pod subnets are not known: "+errorText(t.NodesErr), giveKubeconfig+" and --node-name NAME")
		case n&needNodes != 0 && t.Nodes == nil:
			return Skip("the Nodes are not known: "+errorText(t.NodesErr), giveKubeconfig)
		case n&needPeers != 0 && t.Nodes == nil && t.Report == nil:
			return Skip("the other Nodes are not known: "+errorText(t.NodesErr)+"; "+errorText(t.ReportErr), giveKubeconfig)
		case n&needPeers != 0:
			if err := t.sweepPeers(ctx).err; err != nil {
				return Skip(err.Error(), "")
			}
		}
		return run(ctx, t)
	}
}

// giveKubeconfig is the remediation for a check that needs Nodes.
const giveKubeconfig = "run it in the agent's pod, or give --kubeconfig FILE"
