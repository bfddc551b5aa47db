package nodes

import (
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"

	"github.com/plainroute/plainroute/pkg/topology"
)

// keptNode is what the reflector's stores hold of a Node; node is nil if the Node is ignored.
type keptNode struct {
	metav1.ObjectMeta
	node *topology.Node
	own  *OwnState // of the Node named Own
}

// Transformer makes Source a cache.TransformingStore: the reflector's own stores hold
// keptNodes only, so a list never stands in memory as it came.
func (s *Source) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) { return s.reduce(obj), nil }
}

// reduce turns a wireNode into a keptNode, and returns anything else as it is.
func (s *Source) reduce(obj any) any {
	n, ok := obj.(*wireNode)
	if !ok {
		return obj
	}
	kept := &keptNode{ObjectMeta: metav1.ObjectMeta{Name: n.Name, ResourceVersion: n.ResourceVersion}}
	if !s.ignore.Matches(labels.Set(n.Labels)) {
		kept.node = topology.NodeFrom(&n.Node)
	}
	if s.Own != "" && n.Name == s.Own {
		kept.own = OwnStateFrom(&n.Node)
	}
	return kept
}

// keep returns the keptNode of an object from the reflector, which wraps a deletion that it
// may have missed.
func (s *Source) keep(obj any) (*keptNode, error) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	kept, ok := s.reduce(obj).(*keptNode)
	if !ok {
		return nil, fmt.Errorf("storing Nodes: got a %T", obj)
	}
	return kept, nil
}

// Add stores a Node.
func (s *Source) Add(obj any) error { return s.Update(obj) }

// Update stores a Node. A Node that leads to the same routes does not count as a change.
func (s *Source) Update(obj any) error {
	kept, err := s.keep(obj)
	if err != nil {
		return err
	}
	if kept.node == nil {
		s.forget(kept.Name)
		return nil
	}
	s.change(func() bool { return s.put(kept) })
	return nil
}

// put stores a Node, with its resource version while it has no pod subnets, and reports whether
// that changes the view.
func (s *Source) put(kept *keptNode) bool {
	delete(s.bare, kept.Name)
	if len(kept.node.PodCIDRs) == 0 {
		s.bare[kept.Name] = kept.ResourceVersion
	}
	ownChanged := kept.own != nil && !kept.own.Equal(s.view.Own)
	if ownChanged {
		s.view.Own = kept.own
	}
	i, known := s.index[kept.Name]
	switch {
	case !known:
		s.index[kept.Name] = len(s.view.Nodes)
		s.view.Nodes = append(s.view.Nodes, kept.node)
	case s.view.Nodes[i].Equal(kept.node):
		return ownChanged
	default:
		s.view.Nodes[i] = kept.node
	}
	return true
}

// Delete removes a Node.
func (s *Source) Delete(obj any) error {
	kept, err := s.keep(obj)
	if err != nil {
		return err
	}
	s.forget(kept.Name)
	return nil
}

func (s *Source) forget(name string) {
	s.change(func() bool {
		i, known := s.index[name]
		if !known {
			return false
		}
		last := len(s.view.Nodes) - 1
		s.view.Nodes[i] = s.view.Nodes[last]
		s.index[s.view.Nodes[i].Name] = i
		s.view.Nodes = s.view.Nodes[:last]
		delete(s.index, name)
		delete(s.bare, name)
		if name == s.Own {
			s.view.Own = nil
		}
		return true
	})
}

// Replace stores a full list, unless the restored view takes its place. A list sorted by pod subnet
// is the cheapest to sort again in each pass.
func (s *Source) Replace(list []any, version string) error {
	if s.restored.answering {
		return nil
	}
	kept := make([]*keptNode, 0, len(list))
	for _, obj := range list {
		k, err := s.keep(obj)
		if err != nil {
			return err
		}
		if k.node != nil {
			kept = append(kept, k)
		}
	}
	slices.SortFunc(kept, func(a, b *keptNode) int { return topology.CompareSubnets(a.node, b.node) })
	s.change(func() bool {
		s.view.Nodes, s.view.Own = make([]*topology.Node, 0, len(kept)), nil
		s.index, s.bare = make(map[string]int, len(kept)), map[string]string{}
		for _, k := range kept {
			s.put(k)
		}
		s.view.Synced, s.view.Err, s.view.Cached = true, nil, s.listing
		s.version, s.restored, s.view.Grants = version, restored{}, nil
		s.lists++
		return true
	})
	return nil
}

// Resync does nothing: each pass looks at all Nodes.
func (s *Source) Resync() error { return nil }

// change calls f with the lock held, and notify if f reports a change.
func (s *Source) change(f func() bool) {
	s.mu.Lock()
	changed := f()
	if changed && s.view.Since.IsZero() {
		s.view.Since = time.Now()
	}
	s.mu.Unlock()
	if changed {
		s.notify()
	}
}
