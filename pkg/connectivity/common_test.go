package connectivity

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/plainroute/plainroute/pkg/problem"
)

// What failures have in common is a Problem with a remediation; each case was seen on a cluster.
func TestInCommon(t *testing.T) {
	lost := Outcome{Error: "no answer"}
	seen := Outcome{Self: netip.MustParseAddr("10.244.2.7"), Seen: netip.MustParseAddr("192.168.1.13")}
	type probe struct {
		from, target string
		kind         Kind
		outcome      Outcome
	}
	for _, c := range []struct {
		name     string
		probes   []probe
		want, no string
	}{
		{"TCP dropped on node-2", []probe{
			{"node-1", "node-2", TCP, lost}, {"node-2", "node-2", TCP, lost}, {"node-2", Services, TCP, lost}, {"node-3", "node-2", Bulk, lost},
		}, "have node-2 in common|TCP does not|firewall", "MTU"},
		{"datagrams dropped", []probe{{"node-1", "node-2", UDP, lost}, {"node-2", "node-3", UDP, lost}, {"node-3", "node-1", UDP, lost}}, "datagrams don't|firewall", "in common|MTU"},
		{"a route away", []probe{{"node-1", "node-2", TCP, lost}, {"node-1", "node-2", UDP, lost}, {"node-2", Names, Name, lost}}, "have node-2 in common|status --cluster", "firewall|MTU|names"},
		{"a narrow uplink", []probe{{"node-1", "node-3", MTU, lost}, {"node-3", "node-2", Large, lost}}, "have node-3 in common|MTU", "firewall"},
		{"masquerade", []probe{{"node-3", "node-1", TCP, seen}, {"node-3", "node-2", TCP, seen}}, "have node-3 in common|node node-3: SourceTranslated|--cluster-cidr", "firewall|MTU"},
		{"DNS away", []probe{{"node-1", Names, Name, lost}, {"node-2", Names, Name, lost}}, "the cluster's DNS", "in common|firewall|MTU"},
		{"no kube-proxy", []probe{{"node-1", Services, TCP, lost}}, "have node-1 in common|kube-proxy", "DNS|firewall"},
		{"no kube-proxy, so no names", []probe{{"node-1", Names, Name, lost}, {"node-1", Services, TCP, lost}}, "kube-proxy", "DNS|firewall"},
		{"no kube-proxy, and no DNS", []probe{{"node-2", Names, Name, lost}, {"node-1", Services, TCP, lost}}, "kube-proxy on these nodes.\ninfo: NamesUnresolved: pods reach each other, but not by names", "firewall"},
		{"a firewall on a node", []probe{{"node-1", Nodes + " node-2", Reach, lost}, {"node-3", Nodes + " node-2", Reach, lost}}, "have node-2 in common|on that node", "DNS|MTU"},
		{"a node is off", []probe{{"node-1", Nodes + " off", Reach, lost}, {"node-2", Nodes + " off", Reach, lost}}, "status --cluster --problems|doctor --cluster", "firewall"},
		{"no way out", []probe{{"node-1", Outside, Reach, lost}}, "--masquerade", "DNS|firewall|MTU"},
	} {
		r := &Result{Nodes: []string{"node-1", "node-2", "node-3"}, Absent: []problem.Problem{nodeAbsent("off", "the node is NotReady", "")}}
		for _, p := range c.probes {
			r.add(p.from, p.target, Probe{p.kind, "192.0.2.1:9473"}, p.outcome)
		}
		var printed strings.Builder
		problem.Printer{}.Print(&printed, problem.Grouped(r.problems()))
		document, err := json.Marshal(r)
		for _, p := range r.inCommon() {
			if err != nil || !strings.Contains(string(document), `"reason":"`+string(p.Reason)+`"`) {
				t.Errorf("%s: %v, the document lacks %s", c.name, err, p.Reason)
			}
		}
		_, common, _ := strings.Cut(printed.String(), "info: ") // after the probes
		for _, want := range strings.Split(c.want, "|") {
			if !strings.Contains(printed.String(), want) {
				t.Errorf("%s: want %q in\n%s", c.name, want, &printed)
			}
		}
		for _, no := range strings.Split(c.no, "|") {
			if strings.Contains(common, no) {
				t.Errorf("%s: want no %q in\n%s", c.name, no, &printed)
			}
		}
	}
}
