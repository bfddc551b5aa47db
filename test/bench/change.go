package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/plainroute/plainroute/test/testutil"
)

// restBetween lets the work of one sample end before the next.
const restBetween = 100 * time.Millisecond

// measureNew measures the time from a new Node to its route, and to a plain client's watch event:
// the agent can't save the API server's share.
func measureNew(ctx context.Context, l *lab, r *report) error {
	var routed, seen []time.Duration
	first := l.opts.nodes
	before, err := l.agent.cpu()
	if err != nil {
		return err
	}
	for index := first; index < first+l.opts.samples; index++ {
		route, own, err := l.timeChange(ctx, index, watch.Added, peerRoute(subnet4(index)), func() error { return l.create(ctx, index) })
		if err != nil {
			return err
		}
		routed, seen = append(routed, route), append(seen, own)
	}
	r.addChange("new Node to", "its route", routed, seen, 8)
	if err := l.addCPU(r, "a new Node", before); err != nil {
		return err
	}

	gone := l.opts.samples * len(l.subnets(ownIndex)) * l.perRoute()
	_, err = l.routes.await(ctx, func() error {
		for index := first; index < first+l.opts.samples; index++ {
			if err := l.deleteNode(ctx, index); err != nil {
				return err
			}
		}
		return nil
	}, peers(gone, false))
	return err
}

// measureMove measures the way from a Node's new InternalIP to its route by it.
func measureMove(ctx context.Context, l *lab, r *report) error {
	var routed, seen []time.Duration
	longest := gap{}
	before, err := l.agent.cpu()
	if err != nil {
		return err
	}
	for index := 1; index <= l.opts.samples; index++ {
		moved := index + movedBy
		subnet, via := subnet4(index), address4(moved)
		route, own, err := l.timeChange(ctx, index, watch.Modified, func(e routeEvent) bool {
			longest.learn(e, subnet)
			return e.added && e.subnet == subnet && e.via == via
		}, func() error { return l.move(ctx, index, l.addresses(moved)) })
		if err != nil {
			return err
		}
		routed, seen = append(routed, route), append(seen, own)
	}
	r.addChange("Node changes address to", "new route", routed, seen, 10)
	r.add("without a route meanwhile, worst", milliseconds(longest.longest), "ms", exactly0)
	return l.addCPU(r, "a change of address", before)
}

// addCPU adds the agent's CPU time for each sample since before: a busy machine hardly changes this figure.
func (l *lab) addCPU(r *report, of string, before time.Duration) error {
	after, err := l.agent.cpu()
	if err != nil {
		return err
	}
	r.add("CPU for "+of, milliseconds((after-before)/time.Duration(l.opts.samples)), "ms", 0)
	return nil
}

// gap is the longest time between a route's deletion and its return.
type gap struct {
	gone    time.Time
	longest time.Duration
}

func (g *gap) learn(e routeEvent, subnet netip.Prefix) {
	switch {
	case e.subnet != subnet:
	case !e.added:
		g.gone = e.at
	case !g.gone.IsZero():
		g.longest = max(g.longest, e.at.Sub(g.gone))
		g.gone = time.Time{}
	}
}

// timeChange measures how long after the call of cause the wanted route was announced, and how long after it a watch
// of our own saw the Node. Both begin just before the call.
func (l *lab) timeChange(ctx context.Context, index int, kind watch.EventType, want func(routeEvent) bool, cause func() error) (routed, seen time.Duration, err error) {
	nodes, err := l.watchNodes(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer nodes.Stop()
	seenAt := make(chan time.Time, 1)
	go noticeNode(nodes, nodeName(index), kind, seenAt)
	if err := testutil.Pause(ctx, restBetween); err != nil {
		return 0, 0, err
	}
	limited, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	start := time.Now()
	routedAt, err := l.routes.await(limited, cause, want)
	if err != nil {
		return 0, 0, err
	}
	select {
	case at := <-seenAt:
		return routedAt.Sub(start), at.Sub(start), nil
	case <-limited.Done():
		return 0, 0, fmt.Errorf("waiting for a watch to show Node %d: %w", index, limited.Err())
	}
}

// watchNodes watches from now on.
func (l *lab) watchNodes(ctx context.Context) (watch.Interface, error) {
	one, err := l.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return nil, fmt.Errorf("getting the resource version: %w", err)
	}
	nodes, err := l.client.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{ResourceVersion: one.ResourceVersion})
	if err != nil {
		return nil, fmt.Errorf("watching Nodes: %w", err)
	}
	return nodes, nil
}

func noticeNode(nodes watch.Interface, name string, kind watch.EventType, at chan<- time.Time) {
	for event := range nodes.ResultChan() {
		if node, ok := event.Object.(*corev1.Node); ok && node.Name == name && event.Type == kind {
			at <- time.Now()
			return
		}
	}
}

// move gives a Node other addresses, as its kubelet would.
func (l *lab) move(ctx context.Context, index int, addresses []netip.Prefix) error {
	return l.patchStatus(ctx, index, types.MergePatchType, "addresses", nodeAddresses(index, addresses))
}

// patchStatus sets one field of a Node's status.
func (l *lab) patchStatus(ctx context.Context, index int, kind types.PatchType, field string, value any) error {
	content, err := json.Marshal(map[string]any{"status": map[string]any{field: value}})
	if err != nil {
		return fmt.Errorf("rendering a patch: %w", err)
	}
	_, err = l.client.CoreV1().Nodes().Patch(ctx, nodeName(index), kind, content, metav1.PatchOptions{FieldManager: "kubelet"}, "status")
	if err != nil {
		return fmt.Errorf("changing the status of Node %d: %w", index, err)
	}
	return nil
}

func (l *lab) deleteNode(ctx context.Context, index int) error {
	if err := l.client.CoreV1().Nodes().Delete(ctx, nodeName(index), metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("deleting Node %d: %w", index, err)
	}
	return nil
}
