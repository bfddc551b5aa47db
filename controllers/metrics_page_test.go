package controllers

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	"sigs.k8s.io/yaml"

	"github.com/plainroute/plainroute/pkg/problem"
)

// anyValue stands for values that can't be listed.
const anyValue = "…"

// A sheet describes a metric: its type, and the values of its labels.
type sheet struct {
	Type   string
	Labels map[string][]string
}

// The page lists exactly the metrics and label values that exist.
func TestMetricsPage(t *testing.T) {
	a := newSingle(t, agentOptions{})
	a.list(node1(), peer(2))
	a.pass()
	families, err := a.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(page(t), gathered(families)); diff != "" {
		t.Errorf("docs/metrics.md (-) and the metrics (+):\n%s", diff)
	}
	_, body := a.get("/metrics")
	if want := countSeries(body) + " series"; !strings.Contains(pageText(t), want) {
		t.Errorf("the page does not say that there are %s", want)
	}
}

func pageText(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// page reads the rows of the page's tables of metrics.
func page(t *testing.T) map[string]sheet {
	t.Helper()
	quoted := regexp.MustCompile("`([^`]+)`")
	all := map[string]sheet{}
	for line := range strings.Lines(pageText(t)) {
		cells := strings.Split(line, "|")
		if len(cells) != 7 || !strings.Contains(cells[1], "`plainroute_") {
			continue
		}
		labels := map[string][]string{}
		for group := range strings.SplitSeq(cells[3], ";") {
			name, values, listed := strings.Cut(group, ":")
			for _, label := range quoted.FindAllStringSubmatch(name, -1) {
				labels[label[1]] = []string{anyValue}
			}
			if !listed || strings.Contains(values, "as in") {
				continue
			}
			var list []string
			for _, value := range quoted.FindAllStringSubmatch(values, -1) {
				list = append(list, value[1])
			}
			slices.Sort(list)
			labels[quoted.FindStringSubmatch(name)[1]] = list
		}
		all[quoted.FindStringSubmatch(cells[1])[1]] = sheet{strings.TrimSpace(cells[2]), labels}
		if name := quoted.FindStringSubmatch(cells[1])[1]; !strings.Contains(cells[5], name) {
			t.Errorf("the example of %s is about something else", name)
		}
	}
	return all
}

// gathered returns the same for the metrics themselves. The labels of the build and the Reasons,
// which have a test of their own, count as any value.
func gathered(families []*dto.MetricFamily) map[string]sheet {
	all := map[string]sheet{}
	for _, f := range families {
		values := map[string]map[string]bool{}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if values[l.GetName()] == nil {
					values[l.GetName()] = map[string]bool{}
				}
				values[l.GetName()][l.GetValue()] = true
			}
		}
		labels := map[string][]string{}
		for name, set := range values {
			labels[name] = slices.Sorted(maps.Keys(set))
			if f.GetName() == "plainroute_build_info" || f.GetName() == "plainroute_problems" && name == "reason" {
				labels[name] = []string{anyValue}
			}
		}
		all[f.GetName()] = sheet{strings.ToLower(f.GetType().String()), labels}
	}
	return all
}

// relabeling is a rule of Prometheus for series (relabel_config).
type relabeling struct {
	SourceLabels  []string
	Regex, Action string
}

// The chart's PodMonitor keeps as many series of a node as the page lists, however many peers there
// are.
func TestPodMonitorBoundsSeries(t *testing.T) {
	content, err := os.ReadFile(filepath.Join("..", "charts", "plainroute", "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var values struct {
		PodMonitor struct{ MetricRelabelings []relabeling }
	}
	if err := yaml.Unmarshal(content, &values); err != nil {
		t.Fatal(err)
	}
	const nodes = 5000
	var kept []int
	for _, peers := range []int{1, 50} {
		t.Run(fmt.Sprint(peers), func(t *testing.T) {
			kept = append(kept, countKept(t, values.PodMonitor.MetricRelabelings, peers))
		})
	}
	if len(kept) != 2 || kept[0] != kept[1] {
		t.Fatalf("with more peers other series are kept: %v", kept)
	}
	want := fmt.Sprintf("%d series a node, %d among 5,000 Nodes", kept[0], kept[0]*nodes)
	if text := strings.Join(strings.Fields(pageText(t)), " "); !strings.Contains(text, want) {
		t.Errorf("the page does not say %q", want)
	}
}

// countKept counts what the rules keep of an agent's series.
func countKept(t *testing.T, rules []relabeling, peers int) int {
	t.Helper()
	a := newSingle(t, agentOptions{})
	a.list(node1())
	for i := range peers {
		a.set(peer(i + 2))
	}
	a.pass()
	_, body := a.get("/metrics")
	kept := 2 // of the process, which the test's registry does not have
	for line := range strings.Lines(body) {
		if series := labelsOf(line); series != nil && keeps(rules, series) {
			kept++
		}
	}
	return kept
}

// keeps applies the rules: regexps are anchored, and labels are joined by semicolons.
func keeps(rules []relabeling, series map[string]string) bool {
	for _, rule := range rules {
		var joined []string
		for _, label := range rule.SourceLabels {
			joined = append(joined, series[label])
		}
		if regexp.MustCompile("^(?:"+rule.Regex+")$").MatchString(strings.Join(joined, ";")) != (rule.Action == "keep") {
			return false
		}
	}
	return true
}

// labelsOf reads a line of the text format: the labels of its series with the name among them, nil for a comment.
func labelsOf(line string) map[string]string {
	if strings.HasPrefix(line, "#") {
		return nil
	}
	name, rest, _ := strings.Cut(line, " ")
	if before, labels, found := strings.Cut(line, "{"); found {
		name, rest = before, labels
	}
	series := map[string]string{"__name__": name}
	for _, label := range regexp.MustCompile(`(\w+)="([^"]*)"`).FindAllStringSubmatch(rest, -1) {
		series[label[1]] = label[2]
	}
	return series
}

// countSeries counts what a scrape of our metrics brings.
func countSeries(body string) string {
	n := 0
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "plainroute_") {
			n++
		}
	}
	return strconv.Itoa(n)
}

// Every reason is there before anything is wrong, and one that is never this node's own
// is not there as such.
func TestEveryReasonHasASeries(t *testing.T) {
	a := newSingle(t, agentOptions{})
	a.list(node1())
	a.pass()
	_, body := a.get("/metrics")
	for _, reason := range problem.Reasons() {
		for _, own := range []string{"true", "false"} {
			want := own == "false" || reason.Scope() != problem.OfOthers
			line := `plainroute_problems{own="` + own + `",reason="` + string(reason) + `"} 0`
			if strings.Contains(body, line) != want {
				t.Errorf("%s is there: %t, want %t", line, !want, want)
			}
		}
	}
}
