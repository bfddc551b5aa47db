package controllers

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"syscall"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// cniError is an error of Apply that concerns the CNI config.
type cniError struct{ err error }

func (e *cniError) Error() string { return e.err.Error() }
func (e *cniError) Unwrap() error { return e.err }

// partFailure is an error of Apply that concerns one kind of things on this node.
type partFailure interface {
	error
	FailedKind() plan.Kind
}

// partReasons say what is wrong when a kind of change fails.
var partReasons = map[plan.Kind]topology.Reason{
	plan.KindSysctl: topology.SettingFailed, plan.KindTable: topology.TableFailed,
	plan.KindAddress: topology.BridgeFailed, plan.KindBridge: topology.BridgeFailed, plan.KindDevice: topology.BridgeFailed,
}

// failedRoutes returns the routes that an error of Apply names.
func failedRoutes(err error) map[topology.Route]bool {
	failed := map[topology.Route]bool{}
	for _, e := range flatten(err) {
		var route RouteFailure
		if errors.As(e, &route) {
			failed[route.FailedRoute()] = true
		}
	}
	return failed
}

// achieved returns what of the changes was made, as far as the error of Apply tells:
// all but the routes that it names, and of the rest nothing if it names more.
func achieved(c plan.Changes, err error) plan.Changes {
	if err == nil {
		return c
	}
	done := plan.Changes{}
	if onlyRoutes(err) {
		done = c
	}
	failed := failedRoutes(err)
	refused := func(r topology.Route) bool { return failed[r] }
	done.Add = slices.DeleteFunc(slices.Clone(c.Add), refused)
	done.Replace = slices.DeleteFunc(slices.Clone(c.Replace), refused)
	done.Delete = slices.DeleteFunc(slices.Clone(c.Delete), refused)
	return done
}

// verify tells whether the kernel has taken what it was given, from what is
// still to be done after an Apply that ended with err. Routes that it refused
// and removals can wait.
func verify(rest plan.Changes, err error) error {
	failed := failedRoutes(err)
	refused := func(r topology.Route) bool { return failed[r] }
	rest = rest.WithoutRemovals()
	rest.Add = slices.DeleteFunc(slices.Clone(rest.Add), refused)
	rest.Replace = slices.DeleteFunc(slices.Clone(rest.Replace), refused)
	if rest.KernelEmpty() {
		return nil
	}
	return fmt.Errorf("the kernel does not hold what was written (%d settings, %d devices, %d addresses, %d routes, table %t); trying again",
		len(rest.Sysctls), rest.Tally().Devices, len(rest.AddAddresses), len(rest.Add)+len(rest.Replace), rest.Table != nil || !rest.Widen.Empty())
}

// onlyRoutes tells whether an error of Apply leaves this node itself whole.
func onlyRoutes(err error) bool {
	for _, e := range flatten(err) {
		var route RouteFailure
		if !errors.As(e, &route) || ownFault(e) {
			return false
		}
	}
	return true
}

// flatten gives the errors that were joined.
func flatten(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, flatten(e)...)
	}
	return all
}

// problemsOf puts errors into words: a peer's route is that peer's affair.
func problemsOf(err error, nodes []*topology.Node) []topology.Problem {
	var problems []topology.Problem
	for _, e := range flatten(err) {
		var route RouteFailure
		if errors.As(e, &route) && !ownFault(e) {
			failed := route.FailedRoute()
			problems = append(problems, topology.Problem{Node: nodeOf(failed, nodes), Subnet: failed.Dst, Reason: topology.RouteFailed, Detail: adviseRoute(e, failed)})
			continue
		}
		problems = append(problems, ownFailure(e))
	}
	slices.SortFunc(problems, topology.Problem.Compare)
	return slices.Compact(problems)
}

// ownFailure puts an error into words that keeps this node from being ready. One
// that meets every route is told once.
func ownFailure(e error) topology.Problem {
	p := topology.Problem{Reason: topology.KernelFailed, Own: true}
	var route RouteFailure
	var conf *cniError
	var part partFailure
	switch {
	case errors.As(e, &route):
		e = fmt.Errorf("changing routes: %w", errors.Unwrap(route))
	case errors.As(e, &conf):
		p.Reason = topology.CNIFailed
	case errors.As(e, &part):
		p.Reason = partReasons[part.FailedKind()]
	}
	p.Detail = advise(e)
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

// ownFault tells whether an error, though it met a peer's route, is a fault of
// this node: without CAP_NET_ADMIN no route at all can be made. EACCES is the kernel's answer
// where IPv6 is off on the route's device.
func ownFault(err error) bool { return errors.Is(err, syscall.EPERM) }

// advise adds to an error what to do about it, where that is known.
func advise(err error) string {
	switch {
	case errors.Is(err, syscall.EROFS):
		return err.Error() + " (mount it writable into the agent's pod)"
	case errors.Is(err, syscall.EPERM) && concerns(err, plan.KindTable):
		return err.Error() + " (the agent needs CAP_NET_ADMIN, and nobody else may hold the table)"
	case errors.Is(err, syscall.EPERM) && !errors.As(err, new(*cniError)):
		return err.Error() + " (the agent needs CAP_NET_ADMIN)"
	case errors.Is(err, syscall.EACCES) && concerns(err, plan.KindAddress): // of netlink: it says itself why
		return err.Error()
	case errors.Is(err, fs.ErrPermission):
		return err.Error() + " (the folder's or file's owner must let the agent write)"
	case errors.Is(err, syscall.ENOSPC):
		return err.Error() + " (the file system is full)"
	}
	return err.Error()
}

// adviseRoute is advise for an error that concerns one route.
func adviseRoute(err error, r topology.Route) string {
	if errors.Is(err, syscall.EACCES) && r.Dst.Addr().Is6() {
		return err.Error() + " (IPv6 is switched off on that device: " + topology.ConfSysctl(6, r.Dev, "disable_ipv6") + ")"
	}
	return err.Error()
}

// concerns tells whether an error is about a kind of things.
func concerns(err error, kind plan.Kind) bool {
	var part partFailure
	return errors.As(err, &part) && part.FailedKind() == kind
}
