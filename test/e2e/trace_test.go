package e2e

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/plainroute/plainroute/test/testutil"
)

const (
	confFolder = "/etc/cni/net.d"
	runFolder  = "/run/plainroute"
)

// ourMetric matches the metrics of routes to peers, 2048 to 2303, and of the one to the node's own pods.
var ourMetric = regexp.MustCompile(` metric (20(4[89]|[5-9]\d)|2[12]\d\d|230[0-3]|4096)\b`)

// ourRoutes are the routes on a node that bear our mark: protocol 112, and a metric of ours.
func ourRoutes(ctx context.Context, name string) (string, error) {
	all, err := onNode(ctx, name, "ip -4 route show table all proto 112; ip -6 route show table all proto 112")
	if err != nil {
		return "", err
	}
	var ours []string
	for line := range strings.Lines(all) {
		if line = strings.TrimSpace(line); ourMetric.MatchString(line) {
			ours = append(ours, line)
		}
	}
	return strings.Join(ours, "\n"), nil
}

// trace is where something of ours may be, and the shell command that shows it, each thing on a line.
type trace struct{ what, command string }

// traces are the objects that an uninstall has to remove. Each command prints nothing once that is done.
func traces() []trace {
	return []trace{
		{"nftables table", "nft list tables | grep -w plainroute || true"},
		{"device", "ip -o link | grep plainroute || true"},
		{"CNI config", "ls -A " + confFolder + " | grep plainroute || true"},
		// The folder itself is a mount where it is cleaned, and goes with a reboot.
		{"state", "ls -A " + runFolder + " 2>/dev/null || true"},
	}
}

// clean is nil if nothing of ours is on a node.
func clean(ctx context.Context, name string) error {
	routes, err := ourRoutes(ctx, name)
	if err != nil {
		return err
	}
	var left []error
	if routes != "" {
		left = append(left, fmt.Errorf("node %s still has the routes\n%s", name, routes))
	}
	for _, one := range traces() {
		found, err := onNode(ctx, name, one.command)
		if err != nil || found != "" {
			left = append(left, errors.Join(err, fmt.Errorf("node %s still has the %s\n%s", name, one.what, found)))
		}
	}
	return errors.Join(left...)
}

// foreign are objects of other programs on a node, some of it much like ours: a route with our protocol but another
// metric, one with our metric but another protocol, a bridge, a table, a file beside ours.
func foreign() []trace {
	return []trace{
		{"ip link add foreign0 type bridge && ip link set foreign0 up", "ip -o link show foreign0"},
		{"ip route add 10.99.0.0/24 dev foreign0 proto 99 metric 2153", "ip route show 10.99.0.0/24 proto 99 metric 2153"},
		{"ip route add 10.99.1.0/24 dev foreign0 proto 112 metric 77", "ip route show 10.99.1.0/24 proto 112 metric 77"},
		{"ip route add unreachable 10.99.2.0/24 proto 99 metric 4096", "ip route show 10.99.2.0/24 proto 99 metric 4096"},
		{"ip -6 route add fd99::/64 dev foreign0 proto 99 metric 2048", "ip -6 route show fd99::/64 proto 99 metric 2048"},
		{"nft add table inet foreign", "nft list tables | grep -x 'table inet foreign'"},
		{"mkdir -p " + confFolder + " && echo foreign > " + confFolder + "/foreign.txt", "cat " + confFolder + "/foreign.txt"},
	}
}

// plant adds foreign objects to all nodes; the first one's other state is kept, to be compared.
func (s *story) plant(ctx context.Context, t *testing.T) {
	if len(nodeCommand()) == 0 {
		return
	}
	nodes, err := s.cluster.nodes(ctx)
	testutil.Must(t, err)
	for _, one := range nodes {
		for _, thing := range foreign() {
			_, err := onNode(ctx, one.name, fmt.Sprintf("[ -n \"$(%s 2>/dev/null)\" ] || { %s; }", thing.command, thing.what))
			testutil.Must(t, err)
		}
	}
	if s.before == "" {
		s.before, err = inventory(ctx, nodes[0].name)
		testutil.Must(t, err)
	}
}

// untouched returns an error unless all objects of plant are there.
func untouched(ctx context.Context, name string) error {
	var gone []error
	for _, thing := range foreign() {
		if found, err := onNode(ctx, name, thing.command); err != nil || strings.TrimSpace(found) == "" {
			gone = append(gone, fmt.Errorf("node %s has lost what %q made: %w", name, thing.what, err))
		}
	}
	return errors.Join(gone...)
}

// uproot removes the objects of plant.
func (s *story) uproot(ctx context.Context, t *testing.T) {
	if len(nodeCommand()) == 0 {
		return
	}
	nodes, err := s.cluster.nodes(ctx)
	testutil.Must(t, err)
	for _, one := range nodes {
		_, err := onNode(ctx, one.name, "ip link del foreign0; ip route del unreachable 10.99.2.0/24; nft delete table inet foreign; rm "+confFolder+"/foreign.txt")
		testutil.Must(t, err)
	}
}

// inventory lists the objects on a node, ours or not: devices, routes, tables, files. It leaves out
// the tables of kube-proxy, in either mode, which makes them when it likes, and the host-port
// plugin's, which stays behind (see docs/uninstall.md).
func inventory(ctx context.Context, name string) (string, error) {
	return onNode(ctx, name, `
		ip -o link | cut -d: -f2 | sed 's/^/link/' | sort
		{ ip -4 route; ip -6 route; } | sed 's/ *linkdown//; s/expires [^ ]*//; s/ *$//; s/^/route /' | sort
		nft list tables | grep -vwE 'kube-proxy|filter|nat|mangle|raw|cni_hostport' | sort
		ls -A `+confFolder+` | sed 's/^/file /' | sort`)
}

// differences are the lines of only one of two texts.
func differences(before, after string) string {
	old, now := sets.New(strings.Split(before, "\n")...), sets.New(strings.Split(after, "\n")...)
	var lines []string
	for line := range old.Difference(now) {
		lines = append(lines, "- "+line)
	}
	for line := range now.Difference(old) {
		lines = append(lines, "+ "+line)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
