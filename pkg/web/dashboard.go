package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/plainroute/plainroute/pkg/fleet"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/text"
)

// Dashboard serves the pages of a cluster and of its nodes. It only reads.
type Dashboard struct {
	// Survey asks all agents, and says how far it is.
	Survey func(ctx context.Context, progress func(done, all int)) (*fleet.Cluster, error)
	// Ask gets one agent's answer to GET of a path.
	Ask func(ctx context.Context, agent *fleet.Agent, path string) (io.ReadCloser, error)
	// Every is how long there is between Surveys, Timeout how long one agent may take.
	Every, Timeout time.Duration

	once sync.Once
	wake chan struct{}

	mu      sync.Mutex
	asked   time.Time // when a browser last did
	view    view
	cluster *fleet.Cluster
}

// Run surveys while somebody looks, until the context ends. Each Survey is a port-forward to each agent: nobody looks, no
// Survey.
func (d *Dashboard) Run(ctx context.Context) {
	d.prepare()
	for ctx.Err() == nil {
		if d.watched() {
			d.look(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(d.Every):
		case <-d.wake:
		}
	}
}

func (d *Dashboard) prepare() { d.once.Do(func() { d.wake = make(chan struct{}, 1) }) }

// watched tells whether a browser has asked since it should have at the latest.
func (d *Dashboard) watched() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Since(d.asked) < 3*d.Every+time.Second
}

func (d *Dashboard) look(ctx context.Context) {
	cluster, err := d.Survey(ctx, func(done, all int) {
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
		d.view.Error = err.Error() // what was seen before stays
		return
	}
	d.cluster = cluster
	d.view.Seen = seenOf(cluster)
}

// Handler answers the page of the cluster at /, and that of each node at /nodes/NAME; and their data as JSON.
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

// now is what is known, and has Run look again soon if nobody has looked for long.
func (d *Dashboard) now() view {
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.asked) > d.Every {
		select {
		case d.wake <- struct{}{}:
		default:
		}
	}
	d.asked = time.Now()
	now := d.view
	now.Every = d.Every.Milliseconds()
	return now
}

// node shows what one agent says just now.
func (d *Dashboard) node(w http.ResponseWriter, r *http.Request) {
	row := d.row(r.PathValue("name"))
	switch {
	case row == nil:
		http.Error(w, "there is no such node, or nobody has looked yet", http.StatusNotFound)
		return
	case row.Agent == nil:
		http.Error(w, text.Printable(row.Message), http.StatusBadGateway)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), d.Timeout)
	defer cancel()
	report, err := d.report(ctx, row)
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
	for i := range d.cluster.Nodes {
		if row := &d.cluster.Nodes[i]; row.Node == name {
			return row
		}
	}
	return nil
}

// maxReport is far more than a report of 5,000 peers takes, which is 3 MiB.
const maxReport = 64 << 20

// report is what a node's agent says. It is read, so that nothing but a report comes through.
func (d *Dashboard) report(ctx context.Context, row *fleet.Row) (*status.Report, error) {
	body, err := d.Ask(ctx, row.Agent, "/status?brief=true")
	if err != nil {
		return nil, err
	}
	defer body.Close()
	var report status.Report
	if err := json.NewDecoder(io.LimitReader(body, maxReport)).Decode(&report); err != nil {
		return nil, fmt.Errorf("reading the agent's answer: %w", err)
	}
	if report.Node != row.Node {
		return nil, errors.New("the answer is another node's")
	}
	return &report, nil
}

// sendJSON answers with what, which has a JSON form.
func sendJSON(w http.ResponseWriter, r *http.Request, what any) {
	body, err := json.Marshal(what)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	status.SendJSON(w, r, body)
}
