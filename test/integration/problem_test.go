package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// maxLogged is how often a reason may be in the log: once when it comes, and again when its message
// changes, but not at every try.
const maxLogged = 3

// waitNotReady waits until /readyz refuses for a reason, in words that hold all of words, and until /status, the metrics
// and the log, which a pass writes one after the other, have the reason too.
func waitNotReady(t *testing.T, node *nodelab.Node, reason string, words ...string) {
	t.Helper()
	var seen string
	err := node.WaitReadyz(testutil.Within(t, limit), func(code int, body string) bool {
		seen = body
		return code == http.StatusServiceUnavailable && holdsAll(body, append(words, reason)...)
	})
	testutil.Must(t, err)
	t.Logf("%s reports: %s", node.Name, strings.TrimSpace(seen))
	testutil.AwaitTrue(t, "/status of "+node.Name+" has the problem "+reason, func() bool {
		return hasProblem(t, node, "", reason, "") || hasProblem(t, node, node.Name, reason, "")
	})
	hasMetric(t, node, fmt.Sprintf("plainroute_problems{own=\"true\",reason=%q} 1\n", reason))
	loggedOnce(t, node, reason)
}

// hasMetric waits until an agent's metrics hold a text.
func hasMetric(t *testing.T, node *nodelab.Node, want string) {
	t.Helper()
	var metrics string
	defer func() {
		if t.Failed() {
			t.Logf("problems in the metrics of %s: %q", node.Name, regexp.MustCompile(`(?m)^plainroute_problems.*`).FindAllString(metrics, 20))
		}
	}()
	testutil.AwaitTrue(t, "the metrics of "+node.Name+" have "+want, func() bool {
		var err error
		metrics, err = node.Metrics(t.Context())
		testutil.Must(t, err)
		return strings.Contains(metrics, want)
	})
}

// loggedOnce checks that the log names a reason, and doesn't repeat itself.
func loggedOnce(t *testing.T, node *nodelab.Node, reason string) {
	t.Helper()
	logged := func() int { return countLog(t, node, 0, "msg=Problem ", "reason="+reason) }
	testutil.AwaitTrue(t, "the log of "+node.Name+" has "+reason, func() bool { return logged() > 0 })
	if logged := logged(); logged > maxLogged {
		t.Errorf("the log of %s has %s %d times; want once, or %d times at most:\n%s",
			node.Name, reason, logged, maxLogged, node.LogTail(6))
	}
}

// logSize is how much has been logged so far, in bytes.
func logSize(t *testing.T, node *nodelab.Node) int64 {
	t.Helper()
	info, err := os.Stat(node.LogFile())
	testutil.Must(t, err)
	return info.Size()
}

// countLog counts the lines of a node's log, from an offset on, that hold all parts.
func countLog(t *testing.T, node *nodelab.Node, from int64, parts ...string) int {
	t.Helper()
	content, err := os.ReadFile(node.LogFile())
	testutil.Must(t, err)
	count := 0
	for line := range strings.Lines(string(content[from:])) {
		if holdsAll(line, parts...) {
			count++
		}
	}
	return count
}

func holdsAll(text string, parts ...string) bool {
	return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(text, part) })
}

// hasProblem reports whether an agent's /status has a Problem about a Node (or the host: "") whose detail holds a text.
func hasProblem(t *testing.T, on *nodelab.Node, about, reason, detail string) bool {
	t.Helper()
	_, body, err := on.Get(t.Context(), "/status")
	testutil.Must(t, err)
	var report struct {
		Problems []problem.Problem `json:"problems"`
	}
	if err := json.Unmarshal([]byte(body), &report); err != nil {
		t.Fatalf("reading /status of %s: %v\n%s", on.Name, err, body)
	}
	for _, problem := range report.Problems {
		if problem.Node == about && string(problem.Reason) == reason && strings.Contains(problem.Message, detail) {
			return true
		}
	}
	return false
}
