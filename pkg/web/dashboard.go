package web

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/plainroute/plainroute/pkg/fleet"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/text"
)

// Dashboard serves the pages of a cluster and of its nodes. It only reads.
type Dashboard struct {
	// Collect returns the fleet status, and reports its progress.
	Collect  func(ctx context.Context, progress func(done, all int)) (*fleet.Cluster, error)
	Get      fleet.Get     // requests a path of one agent
	Interval time.Duration // the time between calls of Collect
	Timeout  time.Duration // bounds the request to one agent

	once sync.Once
	wake chan struct{}

	mu        sync.Mutex
	requested time.Time // when a browser last requested data
	view      view
	cluster   *fleet.Cluster
}

// Run collects the fleet status regularly until the context ends. It pauses while no browser
// requests data, because each time takes a port-forward to every agent.
func (d *Dashboard) Run(ctx context.Context) {
	d.prepare()
	for ctx.Err() == nil {
		if d.inUse() {
			d.refresh(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(d.Interval):
		case <-d.wake:
		}
	}
}

func (d *Dashboard) prepare() { d.once.Do(func() { d.wake = make(chan struct{}, 1) }) }

// inUse reports whether a browser has requested data recently.
func (d *Dashboard) inUse() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Since(d.requested) < 3*d.Interval+time.Second
}

func (d *Dashboard) refresh(ctx context.Context) {
	cluster, err := d.Collect(ctx, func(done, all int) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.view.Done, d.view.All = done, all
	})
	if ctx.Err() != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.view.Number++
	if d.view.Error = ""; err != nil {
		d.view.Error = err.Error() // the previous status stays
		return
	}
	d.cluster = cluster
	d.view.Seen = seenOf(cluster)
}

// Handler serves the page of the cluster at /, those of nodes at /nodes/NAME, and the data of both
// as JSON.
func (d *Dashboard) Handler() http.Handler {
	d.prepare()
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", clusterPage.orJSON(d.all))
	mux.Handle("GET /nodes/{name}", nodePage.orJSON(d.node))
	return mux
}

func (d *Dashboard) all(w http.ResponseWriter, r *http.Request) {
	now := d.now()
	if !status.NotModified(w, r, fmt.Sprintf(`W/"%d-%d-%d"`, now.Number, now.Done, now.All)) {
		sendJSON(w, r, now)
	}
}

// now returns the present data, and wakes Run if it has paused.
func (d *Dashboard) now() view {
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.requested) > d.Interval {
		select {
		case d.wake <- struct{}{}:
		default:
		}
	}
	d.requested = time.Now()
	now := d.view
	now.Every = d.Interval.Milliseconds()
	return now
}

// node sends the report of one agent, requested now.
func (d *Dashboard) node(w http.ResponseWriter, r *http.Request) {
	row := d.row(r.PathValue("name"))
	switch {
	case row == nil:
		http.Error(w, "there is no such node, or no fleet status yet", http.StatusNotFound)
		return
	case row.Agent == nil:
		http.Error(w, text.Printable(row.Message), http.StatusBadGateway)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), d.Timeout)
	defer cancel()
	report, err := fleet.FetchReport(ctx, d.Get, row)
	if err != nil {
		http.Error(w, text.Printable(err.Error()), http.StatusBadGateway)
		return
	}
	sendJSON(w, r, report)
}

func (d *Dashboard) row(name string) *fleet.Row {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cluster == nil {
		return nil
	}
	i := slices.IndexFunc(d.cluster.Nodes, func(r fleet.Row) bool { return r.Node == name })
	if i < 0 {
		return nil
	}
	return &d.cluster.Nodes[i]
}

func sendJSON(w http.ResponseWriter, r *http.Request, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	status.SendJSON(w, r, body)
}
