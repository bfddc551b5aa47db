package doctor

import (
	"context"

	"github.com/plainroute/plainroute/pkg/problem"
)

// Checks returns all checks, in the order in which their results are printed.
func Checks() []Check {
	return []Check{
		{"agent", agentProblems},
		{"capabilities", capabilities},
		{"forwarding", forwarding},
		{"rp-filter", reversePath},
		{"bridge-netfilter", bridgeNetfilter},
		{"forward-policy", withInspector(forwardPolicy)},
		{"foreign-routes", withState(foreignRoutes)},
		{"policy-rules", withState(withInspector(policyRules))},
		{"cni-configs", cniConfigs},
		{"cni-plugins", cniPlugins},
		{"leftovers", withState(withInspector(leftovers))},
		{"neighbors", withInspector(withSweep(neighbors))},
		{"mac-addresses", withInspector(withSweep(macAddresses))},
		{"path-mtu", withSweep(pathMTU)},
		{"pod-packets", withSweep(podPackets)},
		{"neighbor-limits", withInspector(neighborLimits)},
		{"conntrack", conntrack},
		{"duplicates", duplicates},
		{"ports", ports},
		{"node-ports", nodePorts},
		{"clocks", clocks},
		{"network-managers", networkManagers},
		{"bridge-address", withState(withSubnets(bridgeAddress))},
		{"leases", withState(withInspector(leakedLeases))},
		{"old-subnet", withSubnets(oldSubnet)},
	}
}

type run = func(context.Context, *Target) []problem.Problem

// withInspector skips a check that reads foreign objects if the kernel can't be read.
func withInspector(check run) run {
	return func(ctx context.Context, t *Target) []problem.Problem {
		if t.Kernel == nil {
			return unreadKernel(t)
		}
		return check(ctx, t)
	}
}

// withState skips a check that compares Host and State if they could not be read.
func withState(check run) run {
	return func(ctx context.Context, t *Target) []problem.Problem {
		if t.KernelErr != nil {
			return unreadKernel(t)
		}
		return check(ctx, t)
	}
}

func unreadKernel(t *Target) []problem.Problem {
	return Skip("the kernel can't be read: "+errorText(t.KernelErr), "")
}

// withSubnets skips a check if this node's pod subnets are unknown.
func withSubnets(check run) run {
	return func(ctx context.Context, t *Target) []problem.Problem {
		if len(t.ownSubnets()) == 0 {
			return Skip("this node's pod subnets are not known: "+errorText(t.NodesErr), giveKubeconfig+" and --node-name NAME")
		}
		return check(ctx, t)
	}
}

// withSweep probes the peers, and skips a check if they are unknown or can't be probed.
func withSweep(check func(context.Context, *Target, *sweep) []problem.Problem) run {
	return func(ctx context.Context, t *Target) []problem.Problem {
		if t.Nodes == nil && t.Report == nil {
			return Skip("the other Nodes are not known: "+errorText(t.NodesErr)+"; "+errorText(t.ReportErr), giveKubeconfig)
		}
		s := t.sweepPeers(ctx)
		if s.err != nil {
			return Skip(s.err.Error(), "")
		}
		return check(ctx, t, s)
	}
}

// giveKubeconfig is the remediation for a check that needs Nodes.
const giveKubeconfig = "run it in the agent's pod, or give --kubeconfig FILE"
