package controllers

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/plainroute/plainroute/pkg/nodes"
	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// waiting returns the Problem that the first list of Nodes has not arrived.
func waiting(view nodes.View) problem.Problem {
	message := "waiting for the first list of Nodes; routes stay as they are"
	if view.Err != nil {
		message += ": " + view.Err.Error()
	}
	return problem.Problem{Reason: problem.APIUnavailable, Message: message}.Blocking(true)
}

// problemsOf returns the Problems of a pass's error. A failed route is a Problem of its peer. Errors
// that meet every route lead to equal Problems.
func problemsOf(err error, nodes []*topology.Node, opts topology.Options) []problem.Problem {
	var problems []problem.Problem
	for _, f := range failuresOf(err) {
		p := problem.Problem{Reason: f.reason, Message: f.err.Error(), Remediation: f.remediation()}
		switch f.reason {
		case problem.RouteFailed:
			p.Subject = problem.Subject{Node: nodeOf(f.route, nodes), Subnet: f.route.Dst}
		case problem.TableFailed:
			p = opts.TableProblem(p.Message)
		}
		problems = append(problems, p.Blocking(f.blocks(opts)))
	}
	slices.SortFunc(problems, problem.Problem.Compare)
	return slices.Compact(problems)
}

func nodeOf(route topology.Route, nodes []*topology.Node) string {
	for _, n := range nodes {
		if slices.Contains(n.PodCIDRs, route.Dst) && (route.OnLink || slices.Contains(n.Addrs, route.Via) || route.Via.IsLinkLocalUnicast()) {
			return n.Name
		}
	}
	return ""
}

// remediation returns how to solve a failure whose errno shows its cause; empty: the registry's is as
// good. The same errno has different causes for files and for netlink.
func (f failure) remediation() string {
	file := errors.As(f.err, new(*fs.PathError)) || errors.As(f.err, new(*os.LinkError))
	switch {
	case f.reason == problem.RouteFailed && errors.Is(f.err, syscall.EACCES) && f.route.Dst.Addr().Is6():
		return "IPv6 is switched off on that device: set " + topology.ConfSysctl(6, f.route.Dev, "disable_ipv6") + " to 0."
	case f.reason == problem.RouteFailed:
		return ""
	case errors.Is(f.err, syscall.EROFS):
		return "Mount it writable into the agent's pod."
	case file && errors.Is(f.err, fs.ErrPermission):
		return "Give the agent permission to write the file or folder."
	case file && errors.Is(f.err, syscall.ENOSPC):
		return "Make room: the file system is full."
	case !file && errors.Is(f.err, syscall.EPERM):
		return "Give the agent CAP_NET_ADMIN in the host's network namespace."
	case f.reason == problem.TunnelFailed && errors.Is(f.err, syscall.EOPNOTSUPP):
		return "Load the kernel's module vxlan, or use a kernel built with CONFIG_VXLAN."
	case !file && errors.Is(f.err, syscall.EOPNOTSUPP):
		return "Load the kernel's module that has the feature, or use a kernel with it."
	}
	return ""
}

// unreadAfter is longer than a new CNI config takes to change the Node: the runtime loads it at
// once (inotify), the kubelet polls the runtime every 5 s and writes its Node every 10 s.
const unreadAfter = 30 * time.Second

// An unreadConfig detects that the container runtime does not load our CNI config: the config is in
// place, and the kubelet still reports that the runtime has no pod network.
type unreadConfig struct {
	now   func() time.Time
	since time.Time // since when both are true; zero: they are not
}

// problem returns the Problem after unreadAfter, and before that how long to wait.
func (u *unreadConfig) problem(result *status.Result, own *nodes.OwnState, path string) ([]problem.Problem, time.Duration) {
	written := result.Known && result.Desired.CNI != nil && !result.Undone.Has(plan.KindCNI) && len(result.Blocking()) == 0
	if own == nil || !own.NoNetwork || !written {
		u.since = time.Time{}
		return nil, 0
	}
	if u.since.IsZero() {
		u.since = u.now()
	}
	if wait := unreadAfter - u.now().Sub(u.since); wait > 0 {
		return nil, wait
	}
	return []problem.Problem{problem.New(problem.CNIUnread, problem.Node(result.Node),
		"our CNI config is in place, at %s as this agent sees it, and the kubelet reports that the container runtime has no pod network (%s); "+
			"the runtime may read another folder", path, nodes.NetworkPluginNotReady)}, 0
}

// formerPodsWait returns when to look again for pods of a former subnet, 0: there are none. Nothing
// announces that the last of them is gone.
func formerPodsWait(problems []problem.Problem) time.Duration {
	if slices.ContainsFunc(problems, func(p problem.Problem) bool { return p.Reason == problem.SubnetChanged }) {
		return time.Second
	}
	return 0
}
