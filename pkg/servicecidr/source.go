// Package servicecidr keeps the cluster's ranges of Services, as its ServiceCIDRs have them (KEP-1880).
package servicecidr

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/nodes"
	"github.com/plainroute/plainroute/pkg/problem"
)

// Source lists the ServiceCIDRs, and again after each change, because there are few of them and they
// change seldom. It works in a goroutine of its own, so that no route waits for it.
type Source struct {
	client rest.Interface
	pods   []netip.Prefix
	notify func()

	mu      sync.Mutex
	ranges  []netip.Prefix // sorted; nil: unknown
	failure string         // why they are unknown, or as old as the last list
	refused string         // why a ServiceCIDR is left out
}

// New returns a Source that reads through config. It leaves out ranges that contain one of pods', as
// the option --service-cidr refuses them: no Node would get a route.
func New(config *rest.Config, pods []netip.Prefix) (*Source, error) {
	group, scheme := schema.GroupVersion{Group: "networking.k8s.io", Version: "v1"}, runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, group)
	c := rest.CopyConfig(config)
	c.APIPath, c.GroupVersion = "/apis", &group
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	c.AcceptContentTypes = runtime.ContentTypeJSON
	client, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("making a client for ServiceCIDRs: %w", err)
	}
	return &Source{client: client, pods: pods}, nil
}

// Ranges returns the ranges, nil: they are unknown; and a Problem, which does not block readiness, if
// they or some of them can't be used.
func (s *Source) Ranges() ([]netip.Prefix, []problem.Problem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var problems []problem.Problem
	for _, message := range []string{s.failure, s.refused} {
		if message != "" {
			problems = append(problems, problem.Problem{Reason: problem.ServicesUnread, Message: message})
		}
	}
	return s.ranges, problems
}

// Run keeps the ranges up to date until ctx ends, and calls notify when the result of Ranges changes.
// Waits between requests are random, so that the agents of a large cluster don't list all at once.
func (s *Source) Run(ctx context.Context, notify func()) {
	s.notify = notify
	first := wait.Backoff{Duration: time.Second, Cap: time.Minute, Steps: 20, Factor: 2, Jitter: 1}
	for backoff := first; ctx.Err() == nil; {
		version, err := s.list(ctx)
		if err == nil {
			backoff, err = first, s.watch(ctx, version)
		}
		if err != nil {
			s.fail(nodes.StableError(err))
		}
		select {
		case <-time.After(backoff.Step()):
		case <-ctx.Done():
		}
	}
}

// A serviceCIDR is what matters of one.
type serviceCIDR struct {
	Metadata struct{ Name string }
	Spec     struct{ CIDRs []string }
}

// list reads all ServiceCIDRs from the server's cache, and returns the version of the list.
func (s *Source) list(ctx context.Context) (string, error) {
	result := s.client.Get().Resource("servicecidrs").Param("resourceVersion", "0").Timeout(requestTimeout).Do(ctx)
	if err := result.Error(); err != nil { // unlike Raw's, it has the server's reason
		return "", err
	}
	content, err := result.Raw()
	if err != nil {
		return "", err
	}
	var list struct {
		Metadata struct{ ResourceVersion string }
		Items    []serviceCIDR
	}
	if err := json.Unmarshal(content, &list); err != nil {
		return "", fmt.Errorf("decoding ServiceCIDRs: %w", err)
	}
	if len(list.Items) == 0 {
		return "", errors.New("the cluster has none")
	}
	s.keep(ctx, list.Items)
	return list.Metadata.ResourceVersion, nil
}

const requestTimeout = 10 * time.Second // bounds one list

// watch returns after the first change since a version, or when the server ends the watch.
func (s *Source) watch(ctx context.Context, version string) error {
	body, err := s.client.Get().Resource("servicecidrs").Param("watch", "true").Param("resourceVersion", version).Stream(ctx)
	if err != nil {
		return err
	}
	defer body.Close()
	_, _ = body.Read(make([]byte, 1))
	return nil
}

// keep replaces the ranges.
func (s *Source) keep(ctx context.Context, all []serviceCIDR) {
	ranges, refused := []netip.Prefix{}, ""
	for _, object := range all {
		for _, cidr := range object.Spec.CIDRs {
			p, err := netip.ParsePrefix(cidr)
			switch {
			case err != nil:
				refused = fmt.Sprintf("the ServiceCIDR %s has an invalid range %q, which is left out", object.Metadata.Name, cidr)
			case slices.ContainsFunc(s.pods, func(c netip.Prefix) bool { return p.Bits() <= c.Bits() && p.Overlaps(c) }):
				refused = fmt.Sprintf("the ServiceCIDR %s has the range %s, which contains pods' addresses of --cluster-cidr and is left out", object.Metadata.Name, p)
			default:
				ranges = append(ranges, p.Masked())
			}
		}
	}
	slices.SortFunc(ranges, netip.Prefix.Compare)
	if s.change(func() { s.ranges, s.failure, s.refused = slices.Compact(ranges), "", refused }) {
		logr.FromContextOrDiscard(ctx).Info("Read the ServiceCIDRs", "ranges", ranges)
	}
}

// fail records why a request failed. Ranges that were read stay valid while the server can't be reached.
func (s *Source) fail(err error) {
	s.change(func() {
		switch {
		case s.ranges == nil:
			s.failure = fmt.Sprintf("reading the ServiceCIDRs: %v; until then the ranges are those of --service-cidr", err)
		case apierrors.IsForbidden(err) || apierrors.IsNotFound(err):
			s.failure = fmt.Sprintf("reading the ServiceCIDRs: %v; until then the ranges are those of the last time", err)
		}
	})
}

// change makes a change, and reports whether it changes the result of Ranges.
func (s *Source) change(do func()) bool {
	s.mu.Lock()
	ranges, failure, refused := s.ranges, s.failure, s.refused
	do()
	changed := (ranges == nil) != (s.ranges == nil) || !slices.Equal(ranges, s.ranges) || failure != s.failure || refused != s.refused
	s.mu.Unlock()
	if changed {
		s.notify()
	}
	return changed
}
