package nodes

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/watch"
)

// restored is the state of a restored view. It takes the place of the first list: when the reflector
// asks for one, it gets an empty list of the view's resource version, which Replace ignores, and so
// it continues with a watch from there. If the server has forgotten that version (410), or refuses
// for another reason, the reflector lists again, and then from the server.
type restored struct {
	version   string // of the view; empty: lists come from the server
	answering bool   // the last list was an empty one
	current   string // the version in etcd after the start; empty: unknown, or the view is as new
}

// Restore begins with a saved view. Call it before Run.
func (s *Source) Restore(v *Saved) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view.Nodes, s.view.Own, s.view.Grants, s.bare = slices.Clone(v.Nodes), v.Own, v.Grants, maps.Clone(v.bare)
	for i, n := range v.Nodes {
		s.index[n.Name] = i
	}
	s.view.Synced, s.view.Cached, s.view.Since = true, true, time.Now()
	s.restored.version = v.ResourceVersion
}

// Saved returns the view, without Identity and Grants, to be saved. It is nil if the API server has
// sent no Nodes since the start.
func (s *Source) Saved() *Saved {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.version == "" {
		return nil
	}
	return &Saved{Time: time.Now(), ResourceVersion: s.version, Own: s.view.Own, Nodes: slices.Clone(s.view.Nodes), bare: maps.Clone(s.bare)}
}

// resume returns the resource version of the restored view, if that takes the place of a list.
func (s *Source) resume() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.restored.answering = s.restored.version != ""
	return s.restored.version
}

// emptyStream returns an empty list as a stream that ends. Its second event is for the reflector,
// which takes a stream without one after the list for a failure.
func emptyStream(version string) watch.Interface {
	end := &wireNode{}
	end.ResourceVersion, end.Annotations = version, map[string]string{metav1.InitialEventsAnnotationKey: "true"}
	events := make(chan watch.Event, 2)
	for range cap(events) {
		events <- watch.Event{Type: watch.Bookmark, Object: end}
	}
	close(events)
	return watch.NewProxyWatcher(events)
}

// checkRestored asks for the version in etcd before the first watch. A version of the view that is newer comes
// from an etcd that was replaced by an older backup. A watch from there would be silent until
// etcd has got that far again, so it is an error.
func (s *Source) checkRestored(ctx context.Context) error {
	s.mu.Lock()
	version := s.restored.version
	s.mu.Unlock()
	if version == "" {
		return nil
	}
	opts, one := metav1.ListOptions{Limit: 1}, &wireNodeList{}
	raw, err := RawBody(s.client.Get().Resource("nodes").SetHeader("Accept", namesOnly).
		VersionedParams(&opts, metav1.ParameterCodec).Do(ctx))
	if err != nil {
		return err
	}
	if err := one.decode(raw); err != nil || !reached(one.ResourceVersion, version) {
		return apierrors.NewResourceExpired(fmt.Sprintf("the API server's Nodes are at %q, the saved ones at %q", one.ResourceVersion, version))
	}
	s.mu.Lock()
	s.restored.current = one.ResourceVersion
	s.mu.Unlock()
	return nil
}

// reached reports whether a resource version is another one or a newer one.
func reached(version, other string) bool {
	order, err := resourceversion.CompareResourceVersion(version, other)
	return err == nil && order >= 0
}

// UpdateResourceVersion makes Source a cache.ResourceVersionUpdater. It is called after each event and
// bookmark. Once the restored view has all changes until the start, it is as new as a list from etcd.
func (s *Source) UpdateResourceVersion(version string) {
	s.change(func() bool {
		if s.restored.answering {
			return false
		}
		s.version = version
		if s.restored.current == "" || !reached(version, s.restored.current) {
			return false
		}
		waited := s.view.Cached
		s.view.Cached, s.view.Grants, s.restored = false, nil, restored{}
		return waited
	})
}
