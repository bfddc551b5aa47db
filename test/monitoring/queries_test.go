package monitoring

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/plainroute/plainroute/test/testutil"
)

// Each query of the dashboard has data, each alert can be evaluated, and each series that either names exists: a typo
// in a metric, a label or a value is an empty panel or an alert that never comes. No query of the dashboard is
// rightly empty where a Node has joined, one is refused and a route was repaired.
func TestQueriesHaveData(t *testing.T) {
	l := newLab(t)
	l.happen()
	queries, variables := dashboard(t)
	var all []string
	for _, q := range queries {
		all = append(all, q)
		all = append(all, selectors(q)...)
	}
	for _, a := range alerts(t) {
		all = append(all, selectors(a.Expr)...)
	}
	slices.Sort(all)
	left := slices.Compact(all)
	t.Logf("%d queries and series", len(left))
	testutil.AwaitWithin(t, time.Minute, askInterval, func() error {
		var faults []error
		left = slices.DeleteFunc(left, func(q string) bool {
			err := l.query(q)
			if err != nil {
				faults = append(faults, err)
			}
			return err == nil
		})
		return errors.Join(faults...)
	})
	for _, v := range variables {
		if err := l.values(v); err != nil {
			t.Error(err)
		}
	}
	l.checkAlerts()
}

// pending are the alerts that would fire if the state of the lab lasted: a Node is refused, and two have no agent.
var pending = []string{"PlainrouteClaimRefused", "PlainrouteAgentMissing"}

// checkAlerts waits until Prometheus has evaluated each rule without an error, and those are
// pending which should be, and no others.
func (l *lab) checkAlerts() {
	l.t.Helper()
	testutil.AwaitWithin(l.t, 30*time.Second, askInterval, func() error {
		var faults []error
		var data struct {
			Groups []struct {
				Rules []struct{ Name, Health, LastError, State string }
			}
		}
		if err := l.ask("rules", nil, &data); err != nil {
			return err
		}
		loaded := 0
		for _, group := range data.Groups {
			loaded += len(group.Rules)
			for _, rule := range group.Rules {
				want := "inactive"
				if slices.Contains(pending, rule.Name) {
					want = "pending"
				}
				if rule.Health != "ok" || rule.State != want {
					faults = append(faults, fmt.Errorf("%s is %s, %s %s", rule.Name, rule.State, rule.Health, rule.LastError))
				}
			}
		}
		if want := len(alerts(l.t)); loaded != want {
			faults = append(faults, fmt.Errorf("%d rules are loaded, want %d", loaded, want))
		}
		return errors.Join(faults...)
	})
}

// dashboard returns the queries of all panels and the queries of all variables, with the variables' values filled in.
func dashboard(t *testing.T) (queries, variables []string) {
	t.Helper()
	var board struct {
		Panels []struct {
			Type, Title string
			Targets     []struct{ Expr string }
		}
		Templating struct {
			List []struct{ Name, Type, Definition string }
		}
	}
	testutil.Must(t, json.Unmarshal(read(t, "charts", "plainroute", "dashboards", "plainroute.json"), &board))
	fill := []string{"$__rate_interval", "2m"}
	for _, v := range board.Templating.List {
		if v.Type == "query" {
			fill = append(fill, "$"+v.Name, ".*")
			variables = append(variables, v.Definition)
		}
	}
	filler := strings.NewReplacer(fill...)
	for _, panel := range board.Panels {
		if len(panel.Targets) == 0 && panel.Type != "row" {
			t.Errorf("panel %q asks nothing", panel.Title)
		}
		for _, target := range panel.Targets {
			queries = append(queries, filler.Replace(target.Expr))
		}
	}
	for i := range variables {
		variables[i] = filler.Replace(variables[i])
	}
	if text := strings.Join(append(queries, variables...), "\n"); strings.Contains(text, "$") {
		t.Errorf("a variable has no value in\n%s", text)
	}
	return queries, variables
}

var labelValues = regexp.MustCompile(`^label_values\((.+), (\w+)\)$`)

// values returns the values of a dashboard's variable.
func (l *lab) values(definition string) error {
	m := labelValues.FindStringSubmatch(definition)
	if m == nil {
		return fmt.Errorf("%s is no label_values(series, label)", definition)
	}
	var values []string
	if err := l.ask("label/"+m[2]+"/values", url.Values{"match[]": {m[1]}}, &values); err != nil {
		return fmt.Errorf("%s: %w", definition, err)
	}
	if len(values) == 0 {
		return fmt.Errorf("%s has no values", definition)
	}
	return nil
}

var (
	selector  = regexp.MustCompile(`\b(?:plainroute_\w+|process_\w+|up)\b(?:\{[^}]*\})?`)
	oneOfMany = regexp.MustCompile(`(\w+)=~"([^"]*\|[^"]*)"`)
)

// selectors returns the series that an expression names; of one that names some by a|b, each of them.
func selectors(expr string) []string {
	var all []string
	for _, s := range selector.FindAllString(expr, -1) {
		all = append(all, choices(s)...)
	}
	return all
}

func choices(series string) []string {
	m := oneOfMany.FindStringSubmatchIndex(series)
	if m == nil {
		return []string{series}
	}
	var all []string
	for one := range strings.SplitSeq(series[m[4]:m[5]], "|") {
		all = append(all, choices(series[:m[4]]+one+series[m[5]:])...)
	}
	return all
}
