package controllers

import (
	"errors"
	"fmt"
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
	p := problem.Problem{Reason: problem.APIUnavailable, BlocksReady: true, Message: "waiting for the first list of Nodes; routes stay as they are"}
	if view.Err != nil {
		p.Message += ": " + view.Err.Error()
	}
	return p
}

// partReasons are the Reasons of failed changes by their kind.
var partReasons = map[plan.Kind]problem.Reason{
	plan.KindSysctl:  problem.SettingFailed,
	plan.KindAddress: problem.BridgeFailed, plan.KindBridge: problem.BridgeFailed, plan.KindDevice: problem.BridgeFailed,
}

// problemsOf returns the Problems of a pass's error. A failed route is a Problem of its peer.
func problemsOf(err error, nodes []*topology.Node, opts topology.Options) []problem.Problem {
	var problems []problem.Problem
	for _, e := range flatten(err) {
		var route RouteFailure
		if errors.As(e, &route) && !blocksAllRoutes(e) {
			failed := route.FailedRoute()
			problems = append(problems, problem.Problem{Subject: problem.Subject{Node: nodeOf(failed, nodes), Subnet: failed.Dst}, Reason: problem.RouteFailed, Message: routeDetail(e, failed)})
			continue
		}
		problems = append(problems, ownProblem(e, opts))
	}
	slices.SortFunc(problems, problem.Problem.Compare)
	return slices.Compact(problems)
}

// ownProblem returns the Problem of an error that concerns this node. Errors that meet every route
// lead to equal Problems.
func ownProblem(e error, opts topology.Options) problem.Problem {
	p := problem.Problem{Reason: problem.KernelFailed, BlocksReady: blocksOne(e, opts)}
	var route RouteFailure
	var step *stepError
	var part PartFailure
	switch {
	case errors.As(e, &route):
		e = fmt.Errorf("changing routes: %w", errors.Unwrap(route))
	case errors.As(e, &part) && part.FailedKey().Kind == plan.KindCNI: // the bridge that it names can't be made
		p.Reason = problem.BridgeFailed
	case errors.As(e, &step) && step.key == configKey:
		p.Reason = problem.CNIFailed
	case errors.As(e, &part) && part.FailedKey() == tableKey:
		return opts.TableProblem(e.Error())
	case errors.As(e, &part):
		p.Reason = partReasons[part.FailedKey().Kind]
	}
	p.Message = detail(e)
	return p
}

func nodeOf(route topology.Route, nodes []*topology.Node) string {
	for _, n := range nodes {
		if slices.Contains(n.PodCIDRs, route.Dst) && slices.Contains(n.Addrs, route.Via) {
			return n.Name
		}
	}
	return ""
}

// blocksAllRoutes reports whether the error of one route meets all of them: without CAP_NET_ADMIN no
// route can be changed. The error EACCES is not of that kind: the kernel returns it if IPv6 is
// disabled on the route's device.
func blocksAllRoutes(err error) bool { return errors.Is(err, syscall.EPERM) }

// detail returns the text of an error with its remediation, if there is one. The same errno has
// different causes for files and for netlink.
func detail(err error) string {
	hint, file := "", errors.As(err, new(*fs.PathError)) || errors.As(err, new(*os.LinkError))
	switch {
	case errors.Is(err, syscall.EROFS):
		hint = "mount it writable into the agent's pod"
	case file && errors.Is(err, fs.ErrPermission):
		hint = "the agent needs permission to write the file or folder"
	case file && errors.Is(err, syscall.ENOSPC):
		hint = "the file system is full"
	case !file && errors.Is(err, syscall.EPERM):
		hint = "the agent needs CAP_NET_ADMIN"
	case !file && errors.Is(err, syscall.EOPNOTSUPP):
		hint = "the kernel lacks a feature, or can't load its module"
	default:
		return err.Error()
	}
	return err.Error() + " (" + hint + ")"
}

// routeDetail is detail for an error that concerns one route.
func routeDetail(err error, r topology.Route) string {
	if errors.Is(err, syscall.EACCES) && r.Dst.Addr().Is6() {
		return err.Error() + " (IPv6 is switched off on that device: " + topology.ConfSysctl(6, r.Dev, "disable_ipv6") + ")"
	}
	return err.Error()
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
	return []problem.Problem{{
		Subject: problem.Node(result.Node), Reason: problem.CNIUnread, BlocksReady: true, Message: fmt.Sprintf(
			"our CNI config is in place, at %s as this agent sees it, and the kubelet reports that the container runtime has no pod network (%s); the runtime may read another folder", path, nodes.NetworkPluginNotReady),
	}}, 0
}

// formerPodsWait returns when to look again for pods of a former subnet, 0: there are none. Nothing
// announces that the last of them is gone.
func formerPodsWait(problems []problem.Problem) time.Duration {
	if slices.ContainsFunc(problems, func(p problem.Problem) bool { return p.Reason == problem.SubnetChanged }) {
		return time.Second
	}
	return 0
}
