// Package e2e follows, on a real cluster, a user who installs plainroute, uses it, upgrades it,
// loses and gains nodes, and removes it. It works against any kubeconfig whose cluster has no pod
// network yet; see README.md.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/plainroute/plainroute/test/testutil"
)

var (
	root        = flag.String("root", "../..", "the checkout, whose charts/, config/ and bin/ are used")
	install     = flag.String("install", "helm", "how the product is installed: helm or kustomize")
	clusterCIDR = flag.String("cluster-cidr", "10.244.0.0/16,fd00:10:244::/56", "where the cluster's pod subnets are from")
	crossSubnet = flag.Bool("cross-subnet", false, "install with encapsulation=cross-subnet, for nodes with routers between them")
	upgradeTag  = flag.String("upgrade-tag", "", "tag of an image, loaded into every node, to upgrade to; none: only a value changes")
)

// limit bounds a single wait on a machine under load, before it counts as hanging.
const limit = 2 * time.Minute

// story is the state that the steps share.
type story struct {
	cluster *cluster
	product installer
	outside *outside
	// before is the state of the first node before the install.
	before string
	extras string // YAML of the objects installed beside the product
	idle   idleness
	times  []string
}

// atOnce is how many parts of a step run at the same time: they wait more than they compute.
const atOnce = "16"

func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", atOnce); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestStory(t *testing.T) {
	if os.Getenv("E2E") == "" {
		t.Skip("E2E is unset: this installs the product in the cluster of KUBECONFIG, see test/e2e/README.md")
	}
	s := begin(t)
	t.Cleanup(func() { t.Logf("took:\n%s", strings.Join(s.times, "\n")) })
	s.step(t, "no node is ready before the install", s.notReady)
	s.step(t, "install", s.install)
	s.step(t, "pods start", s.startPods)
	s.together(t, "traffic", []part{
		{"every pod has addresses of its own", s.addresses},
		{"tunnels lead to nodes behind a router, and to no others", s.tunnels},
		{"pods and nodes reach each other without NAT", s.reach},
		{"host ports", s.hostPorts},
		{"Services", s.services},
		{"session affinity", s.affinity},
		{"a pod reaches itself by its Service", s.hairpin},
		{"names", s.names},
		{"from outside", s.fromOutside},
		{"to outside", s.toOutside},
		{"Ingress", s.ingress},
	})
	s.step(t, "an idle agent is cheap", s.cheap)
	s.step(t, "the whole cluster's status", s.fleetStatus)
	s.step(t, "all nodes examined", s.doctor)
	s.step(t, "the network tested by itself", s.check)
	s.step(t, "an Event reports a fault", s.events)
	s.step(t, "upgrade and restart under traffic", s.upgrade)
	s.together(t, "nodes come and go", []part{
		{"a node joins late", s.join},
		{"a node reboots", s.reboot},
		{"a node is deleted and added again", s.replace},
	})
	s.step(t, "all reach each other after that", s.reachAgain)
	s.step(t, "a rendered chart is applied over the release", s.render)
	s.step(t, "uninstall", s.uninstall)
	s.step(t, "second install", s.installAgain)
}

func begin(t *testing.T) *story {
	t.Helper()
	absolute, err := filepath.Abs(*root)
	testutil.Must(t, err)
	*root = absolute
	s := &story{cluster: newCluster(t)}
	s.product = newInstaller(t, s.cluster)
	s.outside = newOutside(t)
	return s
}

// part is one of several that run at the same time.
type part struct {
	name string
	run  func(context.Context, *testing.T)
}

// step runs a step that all later ones need: after a failure there are none.
func (s *story) step(t *testing.T, name string, run func(context.Context, *testing.T)) {
	t.Helper()
	start := time.Now()
	if !t.Run(name, func(t *testing.T) { s.watched(t, run) }) {
		t.Fatalf("%q failed; the story ends here", name)
	}
	s.times = append(s.times, fmt.Sprintf("%7.1f s  %s", time.Since(start).Seconds(), name))
}

// together runs parts that don't disturb each other, at the same time.
func (s *story) together(t *testing.T, name string, parts []part) {
	t.Helper()
	took := make([]time.Duration, len(parts))
	start := time.Now()
	ok := t.Run(name, func(t *testing.T) {
		for i, part := range parts {
			t.Run(part.name, func(t *testing.T) {
				t.Parallel()
				start := time.Now()
				defer func() { took[i] = time.Since(start) }()
				s.watched(t, part.run)
			})
		}
	})
	s.times = append(s.times, fmt.Sprintf("%7.1f s  %s", time.Since(start).Seconds(), name))
	for i, part := range parts {
		s.times = append(s.times, fmt.Sprintf("           %5.1f s  %s", took[i].Seconds(), part.name))
	}
	if !ok {
		t.Fatalf("%q failed; the story ends here", name)
	}
}

// watched runs a step and, if it fails, shows the state of the cluster.
func (s *story) watched(t *testing.T, run func(context.Context, *testing.T)) {
	t.Helper()
	defer func() {
		if t.Failed() {
			s.cluster.dump(t)
		}
	}()
	run(t.Context(), t)
}

// await calls check until it returns nil. It fails the test with the last error.
func await(ctx context.Context, t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := testutil.Poll(ctx, 100*time.Millisecond, func() error { return check(ctx) }); err != nil {
		t.Fatalf("waiting %s for %s: %v", limit, what, err)
	}
}
