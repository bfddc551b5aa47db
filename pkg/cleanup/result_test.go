package cleanup

import (
	"strings"
	"testing"

	"github.com/plainroute/plainroute/pkg/plan"
)

// A dry run also prints that the cleanup would be refused now.
func TestPrintRefusals(t *testing.T) {
	r := Result{
		DryRun: true, Removed: []plan.Key{{Kind: plan.KindRoute, Name: "10.244.1.0/24 via 192.168.1.12 dev eth0"}},
		Refusals: []string{"pods are attached to bridge plainroute0 (ports: 2); drain this node", "an agent runs on this node"},
	}
	var b strings.Builder
	if err := r.Print(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"WOULD BE REMOVED", "It would be refused now: pods are attached", "It would be refused now: an agent runs on this node.\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in:\n%s", want, b.String())
		}
	}
}
