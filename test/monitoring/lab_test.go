package monitoring

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/plainroute/plainroute/test/inject"
	"github.com/plainroute/plainroute/test/nodelab"
	"github.com/plainroute/plainroute/test/testutil"
)

// limit bounds the whole test on a machine under load.
const limit = 2 * time.Minute

// askInterval is how often Prometheus is asked for samples that it hasn't scraped yet.
const askInterval = 500 * time.Millisecond

// scrapeInterval is short, so that there are rates soon.
const scrapeInterval = "1s"

// start makes the one cluster of this process; each lab has nodes of its own, also when a test runs again (-count).
var start = sync.OnceValues(func() (*nodelab.Cluster, error) { return nodelab.Start(context.Background(), nodelab.DefaultConfig()) })

// last is the number of the node made last.
var last int

// lab is a cluster with something to report, and a Prometheus.
type lab struct {
	t       *testing.T
	ctx     context.Context
	cluster *nodelab.Cluster
	nodes   []*nodelab.Node
	// at is where Prometheus listens, on the loopback of the sandbox.
	at string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	prometheus := tool(t, "prometheus")
	testutil.NeedSandbox(t)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	c, err := start()
	testutil.Must(t, err)
	l := &lab{t: t, ctx: ctx, cluster: c, at: "127.0.0.1:9090"}
	for range 3 {
		l.addAgent()
	}
	for _, node := range l.nodes {
		testutil.Must(t, node.WaitReady(ctx))
	}
	l.startPrometheus(prometheus)
	l.scraped()
	return l
}

// addNode adds a Node without an agent, until the test ends.
func (l *lab) addNode() *nodelab.Node {
	l.t.Helper()
	last++
	node, err := l.cluster.NewNode(last)
	testutil.Must(l.t, err)
	l.t.Cleanup(func() { testutil.Must(l.t, node.Retire(context.Background())) })
	testutil.Must(l.t, node.Register(l.ctx))
	return node
}

// addAgent adds a node whose agent can be reached from the LAN, as Prometheus has to.
func (l *lab) addAgent() {
	l.t.Helper()
	node := l.addNode()
	testutil.Must(l.t, node.StartAgent(nodelab.AgentOptions{Args: []string{"--metrics-listen", metricsOf(node)}}))
	l.nodes = append(l.nodes, node)
}

func metricsOf(n *nodelab.Node) string { return netip.AddrPortFrom(n.V4, 9473).String() }

// startPrometheus runs one that has the alerts, and scrapes the agents with the labels that the
// PodMonitor gives. It ends with the test, or with the sandbox.
func (l *lab) startPrometheus(binary string) {
	l.t.Helper()
	dir := l.t.TempDir()
	rules, err := filepath.Abs(path("charts", "plainroute", "alerts.yaml"))
	testutil.Must(l.t, err)
	var targets []any
	for _, node := range l.nodes {
		targets = append(targets, map[string]any{
			"targets": []string{metricsOf(node)}, "labels": map[string]string{"node": node.Name, "cluster": "test"},
		})
	}
	config, err := yaml.Marshal(map[string]any{
		"global":         map[string]any{"scrape_interval": scrapeInterval, "evaluation_interval": scrapeInterval},
		"rule_files":     []string{rules},
		"scrape_configs": []any{map[string]any{"job_name": "plainroute", "static_configs": targets}},
	})
	testutil.Must(l.t, err)
	file := filepath.Join(dir, "prometheus.yaml")
	testutil.Must(l.t, os.WriteFile(file, config, 0o600))
	var log bytes.Buffer
	cmd := exec.CommandContext(context.Background(), binary, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+l.at)
	cmd.Stdout, cmd.Stderr = &log, &log
	testutil.Must(l.t, cmd.Start())
	l.t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended already
		_ = cmd.Wait()
		if l.t.Failed() {
			l.t.Log("Prometheus reports:\n" + log.String())
		}
	})
}

// scraped waits until there is a first sample of each agent, because a rate needs two.
func (l *lab) scraped() {
	l.t.Helper()
	testutil.AwaitWithin(l.t, limit/4, askInterval, func() error {
		return l.query(fmt.Sprintf("count(up == 1) == %d", len(l.nodes)))
	})
}

// happen makes an event for each panel happen: a Node joins, one is refused, a route of ours is
// deleted.
func (l *lab) happen() {
	l.t.Helper()
	l.addNode()
	bad := inject.FakeNode{Name: "bad", PodCIDRs: []string{"127.0.0.0/24"}, Addresses: []string{"192.168.1.200"}}
	testutil.Must(l.t, inject.CreateNodes(l.ctx, l.cluster.Client(), bad))
	l.t.Cleanup(func() { testutil.Must(l.t, inject.DeleteNodes(context.Background(), l.cluster.Client(), bad)) })
	testutil.Must(l.t, l.nodes[0].DeleteRoute(l.nodes[1].Subnets[0]))
	testutil.Must(l.t, l.nodes[0].AwaitRoute(l.ctx, l.nodes[1].Subnets[0]))
}

// ask sends a request to Prometheus' API and returns the field data of its answer.
func (l *lab) ask(endpoint string, args url.Values, into any) error {
	request, err := http.NewRequestWithContext(l.ctx, http.MethodGet, "http://"+l.at+"/api/v1/"+endpoint+"?"+args.Encode(), nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return err
	}
	if answer.Status != "success" {
		return fmt.Errorf("Prometheus reports %s", answer.Error)
	}
	return json.Unmarshal(answer.Data, into)
}

// query returns why an expression has no data; NaN does not count.
func (l *lab) query(expr string) error {
	var data struct {
		Result []struct {
			Value [2]any
		}
	}
	if err := l.ask("query", url.Values{"query": {expr}}, &data); err != nil {
		return fmt.Errorf("%s: %w", expr, err)
	}
	for _, series := range data.Result {
		if text, ok := series.Value[1].(string); ok && !strings.Contains(text, "NaN") {
			return nil
		}
	}
	return fmt.Errorf("%s: no data", expr)
}
