package controllers

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"syscall"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// cniError is an error of Apply that concerns the CNI config.
type cniError struct{ err error }

func (e *cniError) Error() string { return e.err.Error() }
func (e *cniError) Unwrap() error { return e.err }

// partReasons say what is wrong when a kind of change fails.
var partReasons = map[plan.Kind]topology.Reason{
	plan.KindSysctl:  topology.SettingFailed,
	plan.KindAddress: topology.BridgeFailed, plan.KindBridge: topology.BridgeFailed, plan.KindDevice: topology.BridgeFailed,
}

// achieved returns what of the changes was made, as far as the error of Apply tells: all but what it
// names. If it names less than all that failed, that is the routes only.
func achieved(c plan.Changes, err error) plan.Changes {
	if err == nil {
		return c
	}
	failed := failedKeys(err)
	if failed[plan.Key{Kind: kindOther}] {
		c = plan.Changes{Add: c.Add, Replace: c.Replace, Delete: c.Delete}
	}
	done := c.Without(func(k plan.Key) bool { return failed[k] })
	if failed[tableKey] { // which goes with routes
		done = done.Minus(plan.Changes{DeleteTable: true})
	}
	return done
}

// verify reports whether the kernel has taken what it was given, from what is
// still to be done after an Apply that ended with err. What it refused
// and removals can wait.
func verify(rest plan.Changes, err error) error {
	failed := failedKeys(err)
	rest = rest.WithoutRemovals().Without(func(k plan.Key) bool { return failed[k] })
	if rest.KernelEmpty() {
		return nil
	}
	keys := rest.WithoutCNI().Keys()
	what := keys[0].String()
	if more := len(keys) - 1; more > 0 {
		what += fmt.Sprintf(", and %d more", more)
	}
	return &verifyError{fmt.Errorf("the kernel does not hold what was written (%s); trying again", what)}
}

// tableKey is that of our nftables table, as errors of Apply and Facts have it.
var tableKey = plan.Key{Kind: plan.KindTable, Name: topology.Table}

// blocks reports whether the error of a pass keeps pods of this node from what they need. A peer's route
// is that peer's affair; the limits of the neighbor table are reached by few; and without masquerading
// the table connects nobody.
func blocks(err error, opts topology.Options) bool {
	return slices.ContainsFunc(flatten(err), func(e error) bool { return blocksOne(e, opts) })
}

func blocksOne(e error, opts topology.Options) bool {
	var route RouteFailure
	var part PartFailure
	switch {
	case errors.As(e, &route):
		return ownFault(e)
	case !errors.As(e, &part):
		return true
	case part.FailedKey() == tableKey:
		return opts.Masquerade
	}
	key := part.FailedKey()
	return key.Kind != plan.KindSysctl || !topology.IsNeighSysctl(key.Name)
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
func problemsOf(err error, nodes []*topology.Node, opts topology.Options) []topology.Problem {
	var problems []topology.Problem
	for _, e := range flatten(err) {
		var route RouteFailure
		if errors.As(e, &route) && !ownFault(e) {
			failed := route.FailedRoute()
			problems = append(problems, topology.Problem{Node: nodeOf(failed, nodes), Subnet: failed.Dst, Reason: topology.RouteFailed, Detail: adviseRoute(e, failed)})
			continue
		}
		problems = append(problems, ownFailure(e, opts))
	}
	slices.SortFunc(problems, topology.Problem.Compare)
	return slices.Compact(problems)
}

// ownFailure puts an error into words that keeps this node from being ready, or could. One
// that meets every route is told once.
func ownFailure(e error, opts topology.Options) topology.Problem {
	p := topology.Problem{Reason: topology.KernelFailed, Own: blocksOne(e, opts)}
	var route RouteFailure
	var conf *cniError
	var part PartFailure
	switch {
	case errors.As(e, &route):
		e = fmt.Errorf("changing routes: %w", errors.Unwrap(route))
	case errors.As(e, &part) && part.FailedKey().Kind == plan.KindCNI: // what it would be for can't be made
		p.Reason = topology.BridgeFailed
	case errors.As(e, &conf):
		p.Reason = topology.CNIFailed
	case errors.As(e, &part) && part.FailedKey() == tableKey:
		return opts.TableProblem(e.Error())
	case errors.As(e, &part):
		p.Reason = partReasons[part.FailedKey().Kind]
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

// advise adds to an error what to do about it, where that is known. The kernel gives the same
// errors for files and for netlink, and they mean other things there.
func advise(err error) string {
	if concernsFile(err) {
		return adviseFile(err)
	}
	switch {
	case errors.Is(err, syscall.EPERM):
		return err.Error() + " (the agent needs CAP_NET_ADMIN)"
	case errors.Is(err, syscall.EOPNOTSUPP):
		return err.Error() + " (the kernel lacks what it takes, or the module that brings it can't be loaded)"
	}
	return err.Error()
}

// adviseFile is advise for an error of a file or folder.
func adviseFile(err error) string {
	switch {
	case errors.Is(err, syscall.EROFS):
		return err.Error() + " (mount it writable into the agent's pod)"
	case errors.Is(err, fs.ErrPermission):
		return err.Error() + " (the folder's or file's owner must let the agent write)"
	case errors.Is(err, syscall.ENOSPC):
		return err.Error() + " (the file system is full)"
	}
	return err.Error()
}

// concernsFile reports whether an error is about a file or folder, as EROFS always is.
func concernsFile(err error) bool {
	return errors.As(err, new(*fs.PathError)) || errors.As(err, new(*os.LinkError)) || errors.Is(err, syscall.EROFS)
}

// adviseRoute is advise for an error that concerns one route.
func adviseRoute(err error, r topology.Route) string {
	if errors.Is(err, syscall.EACCES) && r.Dst.Addr().Is6() {
		return err.Error() + " (IPv6 is switched off on that device: " + topology.ConfSysctl(6, r.Dev, "disable_ipv6") + ")"
	}
	return err.Error()
}
