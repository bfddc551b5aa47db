package doctor

import (
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	rtnl "github.com/vishvananda/netlink"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// A device by which this node may be reached must not be deleted, whatever address it has.
func TestNoRemedyDeletesAnUplink(t *testing.T) {
	w := newTestbed(t)
	w.sh("ip addr add 10.244.1.50/24 dev eth0")
	w.look()
	f := w.finds("bridge-address", problem.Error)
	if strings.Contains(f.Remediation, "del ") || !strings.Contains(f.Remediation, "leave the device as it is") {
		t.Errorf("found %+v", f)
	}
}

// An agent's bridge may be named as flannel's is.
func TestNoRemedyDeletesOurBridge(t *testing.T) {
	w := newTestbed(t)
	w.add(&rtnl.Bridge{LinkAttrs: rtnl.LinkAttrs{Name: "cni0"}})
	w.finds("leftovers", problem.Warning)
	w.Bridge = "cni0"
	w.finds("leftovers", problem.None)
}

// Without its device, the packets of peers into another network's tunnel are lost, so no
// remediation begins with its deletion.
func TestNoRemedyCutsATunnel(t *testing.T) {
	w := newTestbed(t)
	w.sh("ip link add flannel.1 type bridge; ip addr add 10.244.1.0/32 dev flannel.1")
	w.look()
	for check, severity := range map[string]problem.Severity{"bridge-address": problem.Error, "leftovers": problem.Warning} {
		f := w.finds(check, severity)
		if strings.Contains(f.Remediation, "`ip link del flannel.1") || !strings.Contains(f.Remediation, "docs/migrate-from-flannel.md") {
			t.Errorf("%s has the cure: %s", check, f.Remediation)
		}
		if bridge, tunnel := strings.Index(f.Remediation, "cni0"), strings.Index(f.Remediation, "flannel.1"); bridge < 0 || tunnel < bridge {
			t.Errorf("%s begins with the tunnel: %s", check, f.Remediation)
		}
	}
}

// Other networks have routes to single pods of theirs, which neither status nor doctor reports.
func TestRouteToALocalPodIsNoFault(t *testing.T) {
	w := newDualTestbed(t)
	w.sh("ip link add veth1 type veth peer name veth2; ip link set veth1 up; ip link set veth2 up; ip route add 10.244.1.70/32 dev veth1; ip route add 10.244.1.80/28 via 10.244.1.2")
	w.look()
	w.finds("foreign-routes", problem.None)
	w.sh("ip route add blackhole 10.244.1.64/26 proto 80")
	w.look()
	if f := w.finds("foreign-routes", problem.Error); !strings.Contains(f.Remediation, "`ip route del blackhole 10.244.1.64/26 proto 80`") {
		t.Errorf("found %+v", f)
	}
	w.sh("ip route del blackhole 10.244.1.64/26 proto 80")
	for _, route := range []string{"10.244.1.128/26 via 192.168.1.13 dev eth0 proto 12", "10.244.1.0/26 dev eth0 proto 3 metric 20"} {
		w.sh("ip route add " + route)
		w.look()
		w.finds("policy-rules", problem.None)
		if f := w.finds("foreign-routes", problem.Error); !strings.Contains(f.Remediation, "`ip route del "+route+"`") {
			t.Errorf("found %+v", f)
		}
		w.sh("ip route del " + route)
	}
}

// No remediation puts another network's container with a pod's address into the pods' bridge.
func TestNoRemedyAttachesAnotherContainer(t *testing.T) {
	w := newTestbed(t)
	w.State.Devices = append(w.State.Devices, topology.Device{Name: "veth7", Up: true, Pod: netip.MustParseAddr("10.244.1.7"), Duplicate: "docker0"})
	f := w.finds("bridge-address", problem.Warning)
	if strings.Contains(f.Remediation, "master") {
		t.Errorf("found %+v", f)
	}
}

// Commands in backquotes are run as they are, so they contain nothing to fill in.
func TestCommandsAreComplete(t *testing.T) {
	blank := regexp.MustCompile("`[^`]*\\b(NODE|NAME|SIZE|DEV|ID|FILE|PORT|SUBNET|ADDRESS|IMAGE|N)\\b[^`]*`")
	for _, source := range sources(t) {
		for _, literal := range source.literals {
			if blank.MatchString(literal) {
				t.Errorf("%s: %s", source.name, literal)
			}
		}
	}
}

type source struct {
	name     string
	literals []string
}

// sources are the files of this package, with their strings.
func sources(t *testing.T) []source {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var all []source
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		s := source{name: name}
		ast.Inspect(file, func(n ast.Node) bool {
			if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == token.STRING && literal.Value[0] == '"' {
				s.literals = append(s.literals, literal.Value)
			}
			return true
		})
		all = append(all, s)
	}
	return all
}
