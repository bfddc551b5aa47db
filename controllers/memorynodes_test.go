package controllers

import (
	"context"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/plainroute/plainroute/pkg/nodes"
	"github.com/plainroute/plainroute/pkg/topology"
)

// memoryNodes is a NodeSource that tests fill. It behaves as nodes.Source does.
type memoryNodes struct {
	own string // name of the Node whose OwnState it has

	mu   sync.Mutex
	view nodes.View
	asks bool // for a confirmation
}

// Run does nothing until ctx ends.
func (m *memoryNodes) Run(ctx context.Context, _ func()) { <-ctx.Done() }

// View returns the Nodes, and forgets since when they have changed.
func (m *memoryNodes) View() nodes.View {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.view
	v.Nodes = slices.Clone(v.Nodes)
	m.view.Since = time.Time{}
	return v
}

// Health returns the health of the view.
func (m *memoryNodes) Health() nodes.Health {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.view.Health
}

// Confirm records that a confirmation is needed.
func (m *memoryNodes) Confirm(time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asks = true
}

// edit changes the view with the lock held. f reports whether Nodes have changed.
func (m *memoryNodes) edit(f func(*nodes.View) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f(&m.view) && m.view.Since.IsZero() {
		m.view.Since = time.Now()
	}
}

// list is a full list of Nodes, from the server's cache or not.
func (m *memoryNodes) list(cached bool, list ...*corev1.Node) {
	m.edit(func(v *nodes.View) bool {
		v.Nodes, v.Own, v.Synced, v.Err, v.Cached = nil, nil, true, nil, cached
		for _, n := range list {
			m.put(v, n)
		}
		slices.SortFunc(v.Nodes, topology.CompareSubnets)
		return true
	})
}

// set adds Nodes or changes them.
func (m *memoryNodes) set(list ...*corev1.Node) {
	m.edit(func(v *nodes.View) (changed bool) {
		for _, n := range list {
			changed = m.put(v, n) || changed
		}
		return changed
	})
}

func (m *memoryNodes) put(v *nodes.View, n *corev1.Node) (changed bool) {
	if own := nodes.OwnStateFrom(n); n.Name == m.own && !own.Equal(v.Own) {
		v.Own, changed = own, true
	}
	node := topology.NodeFrom(n)
	i := slices.IndexFunc(v.Nodes, func(old *topology.Node) bool { return old.Name == n.Name })
	switch {
	case i < 0:
		v.Nodes, changed = append(v.Nodes, node), true
	case !v.Nodes[i].Equal(node):
		v.Nodes[i], changed = node, true
	}
	return changed
}

// unset deletes Nodes.
func (m *memoryNodes) unset(list ...*corev1.Node) {
	m.edit(func(v *nodes.View) bool {
		for _, n := range list {
			v.Nodes = slices.DeleteFunc(v.Nodes, func(old *topology.Node) bool { return old.Name == n.Name })
			if n.Name == m.own {
				v.Own = nil
			}
		}
		return true
	})
}

// confirm is a quorum read that starts now, and agrees unless err is set.
func (m *memoryNodes) confirm(err error) (asked bool) {
	m.edit(func(v *nodes.View) bool {
		if v.ConfirmErr = err; err == nil {
			v.Confirmed, v.Cached = time.Now(), false
			asked, m.asks = m.asks, false
		}
		return false
	})
	return asked
}
