package monitoring

import (
	"encoding/json"
	"testing"

	"github.com/plainroute/plainroute/test/testutil"
)

type panel struct {
	ID      int
	Type    string
	Title   string
	GridPos struct{ X, Y, W, H int }
	Targets []struct {
		Expr       string
		RefID      string
		Datasource struct{ UID string }
	}
}

// There is no Grafana here to look at the dashboard, so what it would stumble over is looked for: panels of one id or
// one place, and queries to another data source than the one that is chosen.
func TestDashboardIsWhole(t *testing.T) {
	var board struct {
		UID, Title string
		Panels     []panel
	}
	testutil.Must(t, json.Unmarshal(read(t, "charts", "plainroute", "dashboards", "plainroute.json"), &board))
	if board.UID == "" || board.Title == "" {
		t.Error("it has no uid or no title")
	}
	ids := map[int]bool{}
	for i, p := range board.Panels {
		if ids[p.ID] || p.Title == "" || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %d, %q, has another's id, no title, or does not fit", p.ID, p.Title)
		}
		ids[p.ID] = true
		for _, q := range board.Panels[:i] {
			if overlap(p, q) {
				t.Errorf("%q and %q lie over each other", p.Title, q.Title)
			}
		}
		refs := map[string]bool{}
		for _, target := range p.Targets {
			if target.Datasource.UID != "${datasource}" || refs[target.RefID] {
				t.Errorf("%q asks %q of data source %q as %q", p.Title, target.Expr, target.Datasource.UID, target.RefID)
			}
			refs[target.RefID] = true
		}
	}
}

func overlap(p, q panel) bool {
	a, b := p.GridPos, q.GridPos
	return a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H
}
