package fleet

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/kube"
	"github.com/plainroute/plainroute/test/testutil"
)

// TestExec runs commands in agents' pods by way of a real API server and a stand-in for kubelets.
func TestExec(t *testing.T) {
	s := startServer(t)
	port := kubelet(t)
	commands := map[string][]string{
		"fine":      {"says", "all", "is", "well"},
		"ill":       {"fails", "this", "is", "wrong"}, // a doctor's exit code goes with what it finds
		"old":       {"complains", "unknown", "command"},
		"chatty":    {"floods"},
		"hangs":     {"hangs"},
		"unreached": {"says"},
	}
	for node := range commands {
		s.node(t, node, map[bool]int{false: port, true: closed}[node == "unreached"], nil)
		s.agent(t, node, 1, up())
	}
	s.node(t, "none", port, nil)
	visited := func(config *rest.Config) string { return s.visited(t, config, commands) }
	got := visited(s.user(t, "admin", "system:masters"))
	for _, want := range []string{
		"fine: all is well in agent\n",
		"ill: this is wrong in agent\n",
		"old: NoAnswer: no answer from the agent: complains ends with 1: unknown command in agent\n",
		"chatty: NoAnswer: no answer from the agent: floods writes more than",
		"hangs: NoAnswer: no answer from the agent: it runs, but did not answer within 5s\n",
		"unreached: NoAnswer: no answer from the agent: ",
		"none: NoAgent: no agent runs here",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}

	if got := visited(s.withoutWebSockets(t)); !strings.Contains(got, "fine: all is well in agent\n") {
		t.Errorf("by SPDY it is:\n%s", got)
	}

	user := s.user(t, "user", "users")
	s.grant(t, "list", rbacv1.PolicyRule{APIGroups: []string{"", "apps"}, Resources: []string{"nodes", "pods", "daemonsets"}, Verbs: []string{"list"}})
	wait(t, func() string { return visited(user) }, "fine: Forbidden: you lack the right to create pods/exec in the namespace plainroute-system")
	s.grant(t, "create", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods/exec"}, Verbs: []string{"create"}})
	wait(t, func() string { return visited(user) }, "fine: all is well in agent\n")
}

// withoutWebSockets is a user behind a proxy without WebSockets.
func (s *server) withoutWebSockets(t *testing.T) *rest.Config {
	t.Helper()
	config := s.user(t, "proxy", "system:masters")
	config.NextProtos = []string{"http/1.1"} // others have no upgrades
	transport, err := rest.TransportFor(config)
	testutil.Must(t, err)
	to, _, err := rest.DefaultServerUrlFor(config)
	testutil.Must(t, err)
	proxy := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "websocket" {
			http.Error(w, "no WebSockets here", http.StatusBadRequest)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	return &rest.Config{Host: front.URL}
}

// visited returns the output of each Node's command, one a line.
func (s *server) visited(t *testing.T, config *rest.Config, commands map[string][]string) string {
	t.Helper()
	client, err := kube.New(config)
	testutil.Must(t, err)
	exec := &Exec{Config: config, Client: client}
	survey := Collector{Client: client, Parallel: 3, Timeout: 5 * time.Second}
	outputs := make(chan string, len(commands))
	rows, err := survey.Visit(t.Context(), func(ctx context.Context, row *Row) error {
		text, err := exec.Run(ctx, row.Agent, commands[row.Node]...)
		if err == nil {
			outputs <- row.Node + ": " + string(text[:min(len(text), 100)]) + "\n"
		}
		return err
	})
	if err != nil {
		return err.Error()
	}
	var all strings.Builder
	for _, row := range rows {
		if row.NoReport != "" {
			all.WriteString(row.Node + ": " + string(row.NoReport) + ": " + row.Message + "\n")
		}
	}
	for close(outputs); ; {
		text, more := <-outputs
		if !more {
			return all.String()
		}
		all.WriteString(text)
	}
}
