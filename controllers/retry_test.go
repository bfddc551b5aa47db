package controllers

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/topology"
)

// keys makes things that fail.
func keys(names ...string) map[plan.Key]bool {
	all := map[plan.Key]bool{}
	for _, name := range names {
		all[plan.Key{Kind: plan.KindRoute, Name: name}] = true
	}
	return all
}

// Waits grow from 20 ms to 30 s and stay there.
func TestRetriesGrow(t *testing.T) {
	r := newRetries()
	want := firstRetry
	for range 100 {
		if got := r.after(keys("a"), true); got != want {
			t.Fatalf("waits %s, want %s", got, want)
		}
		want = min(2*want, lastRetry)
	}
	if got := r.after(nil, true); got != 0 {
		t.Errorf("after success waits %s", got)
	}
	if got := r.after(keys("a"), true); got != firstRetry {
		t.Errorf("after success the first try again waits %s", got)
	}
}

// An object that always fails does not delay one that fails for the first time.
func TestRetriesAreEachThings(t *testing.T) {
	r := newRetries()
	for range 20 {
		r.after(keys("old"), true)
	}
	for want := firstRetry; want < time.Second; want *= 2 {
		if got := r.after(keys("old", "new"), true); got != want {
			t.Fatalf("waits %s, want %s", got, want)
		}
	}
	if got := r.after(keys("old"), true); got != lastRetry {
		t.Errorf("without the new one waits %s, want %s", got, lastRetry)
	}
}

// A pass that could not look at the host has tried nothing, so that nothing is known to be well.
func TestRetriesOutliveABlindPass(t *testing.T) {
	r := newRetries()
	for range 20 {
		r.after(keys("a"), true)
	}
	if got := r.after(keys("host"), false); got != firstRetry {
		t.Errorf("waits %s, want %s", got, firstRetry)
	}
	if got := r.after(keys("a"), true); got != lastRetry {
		t.Errorf("waits %s, want %s", got, lastRetry)
	}
}

// No more is remembered than what fails.
func TestRetriesForget(t *testing.T) {
	r := newRetries()
	for generation := range 10 {
		failed := map[plan.Key]bool{}
		for i := range 5000 {
			failed[plan.Key{Kind: plan.KindRoute, Name: fmt.Sprint(generation, i)}] = true
		}
		r.after(failed, true)
		if len(r.failing) != len(failed) {
			t.Fatalf("%d are remembered, and %d fail", len(r.failing), len(failed))
		}
	}
	r.after(nil, true)
	for generation := range 10 {
		if n := r.backoff.NumRequeues(plan.Key{Kind: plan.KindRoute, Name: fmt.Sprint(generation, 0)}); n != 0 || len(r.failing) != 0 {
			t.Errorf("%d are remembered, and one of them %d times", len(r.failing), n)
		}
	}
}

// Each error of a pass is about a thing of its own.
func TestFailedKeys(t *testing.T) {
	peer := topology.Route{Dst: netip.MustParsePrefix("10.244.2.0/24"), Metric: topology.PeerMetric(netip.MustParsePrefix("10.244.2.0/24"))}
	own := topology.Route{Dst: netip.MustParsePrefix("10.244.2.0/24"), Metric: topology.MetricOwn, Type: topology.Unreachable}
	failed := errors.New("refused")
	got := failedKeys(errors.Join(
		&routeError{peer, failed}, errors.Join(&routeError{own, failed}, partError{failed, tableKey}),
		&stepError{configKey, failed}, &stepError{hostKey, failed}, &stepError{verifyKey, failed}, failed,
	))
	want := []plan.Key{
		{Kind: plan.KindRoute, Name: "10.244.2.0/24"},
		{Kind: plan.KindRoute, Name: "unreachable 10.244.2.0/24"},
		tableKey,
		{Kind: plan.KindCNI, Name: topology.Conflist},
		hostKey,
		verifyKey,
		otherKey,
	}
	if len(got) != len(want) {
		t.Errorf("got %v", got)
	}
	for _, k := range want {
		if !got[k] {
			t.Errorf("%v is not among %v", k, got)
		}
	}
	if len(failedKeys(nil)) != 0 {
		t.Error("something has failed without an error")
	}
}

// Changes that an error names are not done, and all others are.
func TestAchieved(t *testing.T) {
	route := func(dst string) topology.Route {
		return topology.Route{Dst: netip.MustParsePrefix(dst), Metric: topology.PeerMetric(netip.MustParsePrefix(dst))}
	}
	setting := plan.Sysctl{Path: topology.SysctlForward4, Value: "1"}
	c := plan.Of(plan.Replace, setting).With(plan.Of(plan.Add, plan.Table{Masquerade: &topology.Masquerade{}},
		plan.Route{Route: route("10.244.2.0/24")}, plan.Route{Route: route("10.244.3.0/24")})...).
		With(plan.Of(plan.Replace, plan.Route{Route: route("10.244.4.0/24")})...).With(plan.Of(plan.Delete, plan.Route{Route: route("10.244.5.0/24")})...)
	failed := errors.New("refused")
	for name, test := range map[string]struct {
		err  error
		want string
	}{
		"nothing":   {nil, "nftables table, sysctl, route, route, route, route"},
		"a route":   {&routeError{route("10.244.2.0/24"), failed}, "nftables table, sysctl, route, route, route"},
		"the table": {partError{failed, tableKey}, "sysctl, route, route, route, route"},
		"a setting": {partError{failed, plan.Key{Kind: plan.KindSysctl, Name: setting.Path}}, "nftables table, route, route, route, route"},
		"unknown":   {failed, "route, route, route, route"},
	} {
		var kinds []string
		for _, x := range achieved(c, test.err) {
			kinds = append(kinds, string(x.Kind()))
		}
		if got := strings.Join(kinds, ", "); got != test.want {
			t.Errorf("%s failed: %s was done, want %s", name, got, test.want)
		}
	}
}

// Passes that fail come ever less often, each failing thing by itself.
func TestPassesThatFailBackOff(t *testing.T) {
	s := newSingle(t, agentOptions{host: func(h *memoryHost) { h.refuse("10.244.2.0/24", syscall.EINVAL) }})
	s.list(own(2)...)
	h := s.host
	for _, c := range []struct {
		what  string
		do    func()
		waits []time.Duration // in milliseconds
	}{
		{"a route is refused", func() {}, []time.Duration{20, 40, 80}},
		{"the host can't be read", func() { h.refusedFacts = syscall.ENOBUFS }, []time.Duration{20, 40}},
		{"it can", func() { h.refusedFacts = nil }, []time.Duration{160}},
		{"the kernel can't be read", func() { h.refusedObserve = syscall.ENOBUFS }, []time.Duration{20, 40}},
		{"the route is taken", func() { h.refusedObserve = nil; h.allow("10.244.2.0/24") }, []time.Duration{0, 0}},
		{"the table is unread", func() { h.facts.TableUnread = "refused" }, []time.Duration{20, 40, 80}},
		{"it is read", func() { h.facts.TableUnread = "" }, []time.Duration{0}},
		{"a route is refused again", func() {
			h.refuse("10.244.2.0/24", syscall.EINVAL)
			h.dropRoute(route("10.244.2.0/24", "192.168.1.12"))
		}, []time.Duration{20}},
	} {
		c.do()
		for i, want := range c.waits {
			if got := s.pass(); got != want*time.Millisecond {
				t.Errorf("%s: pass %d is followed after %s, want %d ms", c.what, i+1, got, want)
			}
		}
	}
}
