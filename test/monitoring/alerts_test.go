package monitoring

import (
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// alert has the fields of one that the tests read.
type alert struct {
	Alert, Expr, For    string
	Labels, Annotations map[string]string
}

func alerts(t *testing.T) []alert {
	t.Helper()
	var file struct{ Groups []struct{ Rules []alert } }
	parse(t, &file, "charts", "plainroute", "alerts.yaml")
	var all []alert
	for _, group := range file.Groups {
		all = append(all, group.Rules...)
	}
	if len(all) == 0 {
		t.Fatal("there are no alerts")
	}
	return all
}

// promtool parses the rules, and they fire as testdata/alerts_test.yaml expects.
func TestPromtool(t *testing.T) {
	promtool := tool(t, "promtool")
	for _, args := range [][]string{
		{"check", "rules", "--lint=all", "--lint-fatal", path("charts", "plainroute", "alerts.yaml")},
		{"test", "rules", "--diff", "testdata/alerts_test.yaml"},
	} {
		if out, err := exec.CommandContext(t.Context(), promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// promtool's tests have each alert when it comes, just before, and on a day when all is well.
func TestEachAlertIsTested(t *testing.T) {
	var file struct {
		Tests []struct {
			Name  string
			Rules []struct {
				Alertname string `json:"alertname"`
				Expected  []any  `json:"exp_alerts"`
			} `json:"alert_rule_test"`
		}
	}
	parse(t, &file, "test", "monitoring", "testdata", "alerts_test.yaml")
	comes, early, quiet := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for i, one := range file.Tests {
		for _, rule := range one.Rules {
			switch {
			case len(rule.Expected) > 0:
				comes[rule.Alertname] = true
			case i == 0:
				quiet[rule.Alertname] = true
			default:
				early[rule.Alertname] = true
			}
		}
	}
	for _, a := range alerts(t) {
		if !comes[a.Alert] || !early[a.Alert] || !quiet[a.Alert] {
			t.Errorf("%s is tested when it comes: %t, just before: %t, when all is well: %t", a.Alert, comes[a.Alert], early[a.Alert], quiet[a.Alert])
		}
	}
}

var runbook = regexp.MustCompile(`^https://github\.com/plainroute/plainroute/blob/main/docs/(troubleshooting\.md#([a-z-]+))$`)

// Each alert describes the problem, its severity and where to read on; the page lists all, and
// nothing else.
func TestAlertsPage(t *testing.T) {
	listed := map[string]string{}
	row := regexp.MustCompile("^\\| `(Plainroute\\w+)` \\| (\\w+) \\|.*\\]\\((.*)\\) \\|$")
	for line := range strings.Lines(string(read(t, "docs", "metrics.md"))) {
		if m := row.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			listed[m[1]] = m[2] + " " + m[3]
		}
	}
	there := map[string]string{}
	for _, a := range alerts(t) {
		link := runbook.FindStringSubmatch(a.Annotations["runbook_url"])
		if link == nil || a.Annotations["summary"] == "" || a.Annotations["description"] == "" || a.For == "" {
			t.Errorf("%s lacks a runbook, a summary, a description or a time", a.Alert)
			continue
		}
		there[a.Alert] = a.Labels["severity"] + " " + link[1]
	}
	if !maps.Equal(listed, there) {
		t.Errorf("docs/metrics.md lists\n%s\nand there are\n%s", lines(listed), lines(there))
	}
}

func lines(all map[string]string) string {
	var text []string
	for name, what := range all {
		text = append(text, name+" "+what)
	}
	slices.Sort(text)
	return strings.Join(text, "\n")
}

// Where an alert sends an operator at 3 a.m., there is something to read.
func TestRunbooksExist(t *testing.T) {
	anchors := map[string]bool{}
	for line := range strings.Lines(string(read(t, "docs", "troubleshooting.md"))) {
		if title := strings.TrimLeft(line, "#"); title != line {
			anchors[anchor(title)] = true
		}
		for _, m := range regexp.MustCompile(`<a (?:id|name)="([^"]+)"`).FindAllStringSubmatch(line, -1) {
			anchors[m[1]] = true
		}
	}
	for _, a := range alerts(t) {
		if m := runbook.FindStringSubmatch(a.Annotations["runbook_url"]); len(m) == 3 && !anchors[m[2]] {
			t.Errorf("%s leads to #%s, which docs/troubleshooting.md lacks", a.Alert, m[2])
		}
	}
}

// anchor is GitHub's anchor of a heading.
func anchor(title string) string {
	title = strings.ReplaceAll(strings.ToLower(strings.TrimSpace(title)), " ", "-")
	return regexp.MustCompile(`[^a-z0-9_-]`).ReplaceAllString(title, "")
}
