package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// netAdmin is CAP_NET_ADMIN of linux/capability.h.
const netAdmin = 12

// capabilities reads this process's capabilities, which in the agent's pod are those of the agent.
func capabilities(context.Context, *Target) []problem.Problem {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData // the lower and the upper 32
	if err := unix.Capget(&header, &data[0]); err != nil {
		return Skip("reading capabilities: "+err.Error(), "")
	}
	if data[0].Effective&(1<<netAdmin) != 0 {
		return nil
	}
	return Fail("this process may not change routes", fmt.Sprintf("CapEff is %08x%08x, without CAP_NET_ADMIN", data[1].Effective, data[0].Effective),
		"give the agent's container the capability NET_ADMIN (the manifests do); on a host, run this as root")
}

// forwarding reads the settings that make this host a router: the one of all, and those of each
// device that pods' packets pass, because writing 1 to a global setting that is 1 changes no device.
func forwarding(_ context.Context, t *Target) []problem.Problem {
	var paths []string
	for _, family := range t.families() {
		if family == 6 { // of IPv6 only the global setting counts (ip-sysctl.rst, conf/all/forwarding)
			paths = append(paths, topology.SysctlForward6)
			continue
		}
		paths = append(paths, topology.SysctlForward4)
		for _, dev := range t.uplinks() {
			paths = append(paths, topology.ConfSysctl(4, dev, "forwarding"))
		}
		if t.State.Bridge != "" {
			paths = append(paths, topology.ConfSysctl(4, t.State.Bridge, "forwarding"))
		}
	}
	var found []problem.Problem
	for _, path := range paths {
		found = append(found, t.zeroSetting(path, "the kernel does not forward packets, so pods reach nothing beyond this node", " (sysctl.d, a firewall's manager)")...)
	}
	return found
}

// zeroSetting reports a setting that is 0; likely are the programs that may have set it.
func (t *Target) zeroSetting(path, message, likely string) []problem.Problem {
	value, err := t.Setting(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return Skip("reading "+path+": "+err.Error(), "")
	case value == "0":
		return Fail(message, path+" is 0", "the agent sets it; if it does not stay 1, find what resets it"+likely+": `sysctl -w "+path+"=1`")
	}
	return nil
}

// bridgeNetfilter looks whether bridged packets pass the firewall, where Services are translated.
func bridgeNetfilter(_ context.Context, t *Target) []problem.Problem {
	const effect = ", so a Service times out if its pod is on the client's node"
	var found []problem.Problem
	for _, family := range t.families() {
		path := map[int]string{4: topology.SysctlBridgeNF4, 6: topology.SysctlBridgeNF6}[family]
		if _, err := t.Setting(path); errors.Is(err, fs.ErrNotExist) {
			return Fail("the kernel module br_netfilter is not loaded"+effect, path+" does not exist",
				"`modprobe br_netfilter`, and for the next boot: `echo br_netfilter >/etc/modules-load.d/plainroute.conf`")
		}
		found = append(found, t.zeroSetting(path, "bridged packets pass no firewall"+effect, "")...)
	}
	return found
}

// maxRemedies bounds how many of the agent's remediations are repeated; `plainroute status` prints all.
const maxRemedies = 3

// agentProblems reports the agent's own problems, so that such a node does not count as healthy.
func agentProblems(_ context.Context, t *Target) []problem.Problem {
	switch {
	case t.Report == nil && errors.Is(t.ReportErr, context.DeadlineExceeded):
		return Fail("the agent runs and does not answer, so it may neither repair routes nor add new ones", errorText(t.ReportErr),
			"delete its pod, which cuts no traffic, once you have its log (kubectl logs)")
	case t.Report == nil:
		return Warn("no agent answers on this node, so routes stay as they are whatever changes in the cluster", errorText(t.ReportErr),
			"kubectl get pods -A -l app.kubernetes.io/part-of=plainroute -o wide, and the log of the pod that should run here")
	}
	var evidence, remedies []string
	for _, p := range t.Report.All() {
		evidence = append(evidence, p.String())
		if p.Remediation != "" && !slices.Contains(remedies, p.Remediation) && len(evidence) <= maxRemedies {
			remedies = append(remedies, p.Remediation)
		}
	}
	shown, remedy := first(evidence), strings.Join(remedies, " ")
	switch {
	case !t.Report.Ready:
		return Fail("the agent reports that this node is not ready for pods", shown, remedy)
	case slices.ContainsFunc(t.Report.Problems, isLasting):
		return Fail("the agent can't keep objects in place that pods need: another program removes them, or the kernel refuses them", shown, remedy)
	case len(evidence) > 0:
		return Warn("the agent reports problems", shown, remedy)
	}
	return nil
}

// isLasting reports whether an object is missing from the kernel most of the time, if not right now.
func isLasting(p problem.Problem) bool {
	return p.Reason == problem.Contested || p.Reason == problem.RouteFailed
}
