package dataplane

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/seccomp"
)

// withoutNetfilter makes the rest of the test run as on a kernel without NETLINK_NETFILTER:
// socket(2) fails as it does there.
func withoutNetfilter(t *testing.T) {
	t.Helper()
	seccomp.RefuseSockets(t, unix.EPROTONOSUPPORT, unix.AF_NETLINK, unix.NETLINK_NETFILTER)
}

// withoutTable makes a pass, and returns the error of Apply.
func (m *machine) withoutTable(all []*topology.Node, opts topology.Options) error {
	m.t.Helper()
	host, err := m.Facts(context.Background(), nil)
	m.must(err)
	actual, err := m.Observe(context.Background())
	m.must(err)
	desired, _ := topology.Desired(opts, host, m.stated(all), actual)
	return m.Apply(context.Background(), plan.Diff(desired, actual).Except(plan.KindCNI))
}

// onlyTableFailed fails the test unless the error is about our table alone, and names what is
// missing.
func (m *machine) onlyTableFailed(err error, want string) {
	m.t.Helper()
	var part *PartError
	if !errors.As(err, &part) || part.Key != (plan.Key{Kind: plan.KindTable, Name: topology.Table}) || !strings.Contains(err.Error(), want) {
		m.t.Errorf("got %v, want an error of the table with %q", err, want)
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok && len(joined.Unwrap()) != 1 {
		m.t.Errorf("more has failed: %v", err)
	}
}

const inWithoutNetfilter = "PLAINROUTE_TEST_WITHOUT_NETFILTER"

// A kernel without nfnetlink has no table, and all its routes. The filter of system calls stays
// with a thread, so that a process of its own has it.
func TestKernelWithoutNetfilter(t *testing.T) {
	if os.Getenv(inWithoutNetfilter) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestKernelWithoutNetfilter$", "-test.v")
		cmd.Env = append(os.Environ(), inWithoutNetfilter+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		if bytes.Contains(out, []byte("--- SKIP")) {
			t.Skip(string(out))
		}
		return
	}
	m := newMachine(t)
	withoutNetfilter(t)
	m.must(m.Close())
	var err error
	m.Kernel, err = New(m.cfg)
	m.must(err)
	for range 2 { // it is tried each time
		m.onlyTableFailed(m.withoutTable(nodes(4), options(m)), "this kernel has no nf_tables (load the module nf_tables")
	}
	if got := len(m.ours()); got != 4*m.families() {
		t.Errorf("%d routes are there, want %d", got, 4*m.families())
	}
	news := m.watch()
	drain(news, shortly)
	m.must(m.nl.RouteDel(&m.ours()[0]))
	m.expect(news, "a deleted route")
	m.onlyTableFailed(m.withoutTable(nodes(4), options(m)), "no nf_tables")
	if got := len(m.ours()); got != 4*m.families() {
		t.Errorf("%d routes are there, want %d", got, 4*m.families())
	}
}

// The next pass uses nf_tables that a module has added, and their notifications are received.
func TestNetfilterComesLater(t *testing.T) {
	m := newMachine(t)
	m.must(m.nft.CloseLasting())
	m.must(m.nfnetlink.close())
	m.must(m.nftEvents.Close())
	m.nft, m.nftConn, m.nftEvents = nil, nil, nil
	<-m.newEvents
	news := m.watchSettled(nodes(4))
	c := m.nft4test()
	c.DelTable(nftTable)
	m.must(c.Flush())
	m.expect(news, "the deleted table")
	m.settle(nodes(4))
}

// A kernel that refuses the table gets its routes all the same, and the error names what is
// missing.
func TestRefusedTableStopsNothing(t *testing.T) {
	for errno, want := range map[unix.Errno]string{
		unix.EOPNOTSUPP: "CONFIG_NF_TABLES_INET", unix.ENOENT: "NAT in inet tables, which came with Linux 5.2",
		unix.EPERM: "another program may own the table", unix.ENOMEM: "cannot allocate memory",
	} {
		m := newMachine(t)
		refuse := func([]netlink.Message) ([]netlink.Message, error) { return nil, errno }
		var err error
		m.nft, err = nftables.New(nftables.WithTestDial(refuse))
		m.must(err)
		m.fresh.masquerade = true // there is none
		m.onlyTableFailed(m.withoutTable(nodes(4), options(m)), want)
		if got := len(m.ours()); got != 4*m.families() {
			t.Errorf("%v: %d routes are there, want %d", errno, got, 4*m.families())
		}
		m.settle(nodes(4))
	}
}

// Without the table that filters it no tunnel is made, and peers on link get their routes.
func TestRefusedTableStopsTunnels(t *testing.T) {
	m, all := tunneled(t)
	refuse := func([]netlink.Message) ([]netlink.Message, error) { return nil, unix.EPERM }
	var err error
	m.nft, err = nftables.New(nftables.WithTestDial(refuse))
	m.must(err)
	m.fresh.masquerade = true // there is none
	if err := m.Apply(t.Context(), m.diff(all)); !errors.Is(err, errUnfiltered) {
		t.Errorf("error: %v", err)
	}
	if got := len(m.ours()); len(m.observed().Tunnels) > 0 || got != 2*m.families() {
		t.Errorf("tunnels are %v, and there are %d routes", m.observed().Tunnels, got)
	}
	m.settle(all)
	if len(m.observed().Tunnels) != m.families() {
		t.Errorf("with the table the tunnels are %v", m.observed().Tunnels)
	}
}

// An unreadable table is reported, counts as unchanged, and delays no route.
func TestUnreadTableStopsNothing(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	before := m.observe().Masquerade
	refuse := func([]netlink.Message) ([]netlink.Message, error) { return nil, unix.ENOBUFS }
	var err error
	m.must(m.nft.CloseLasting())
	m.nft, err = nftables.New(nftables.WithTestDial(refuse))
	m.must(err)
	m.Forget()
	host, err := m.Facts(t.Context(), nil)
	m.must(err)
	if !strings.Contains(host.TableUnread, "reading nftables table plainroute: ") {
		t.Errorf("said %q", host.TableUnread)
	}
	actual := topology.State{Routes: m.routes.ours, Masquerade: m.masquerade}
	if actual.Masquerade == nil || !slices.Equal(actual.Masquerade.Nodes, before.Nodes) {
		t.Errorf("the table is taken for %+v", actual.Masquerade)
	}
	desired, problems := topology.Desired(options(m), host, m.stated(nodes(4)), actual)
	if desired.Masquerade != actual.Masquerade || len(desired.Routes) != 4*m.families() {
		t.Errorf("desired is %+v", desired)
	}
	if !slices.ContainsFunc(problems, func(p problem.Problem) bool { return p.Reason == problem.TableFailed && p.BlocksReady }) {
		t.Errorf("problems are %v", problems)
	}
	m.settle(nodes(4))
}

// A route that is always refused does not keep undesired elements in the sets.
func TestRefusedRouteNarrowsSets(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(3))
	gone := nodes(3)[2].Addrs[0]
	refused := topology.Route{
		Dst: netip.MustParsePrefix("10.128.77.0/24"), Via: gone, Dev: "missing", Protocol: topology.Protocol, Metric: topology.PeerMetric(netip.MustParsePrefix("10.128.77.0/24")),
	}
	err := m.Apply(t.Context(), routes(plan.Add, refused).With(sets(plan.Delete, plan.SetChange{DeleteNodes: []netip.Addr{gone}})...))
	if route := new(RouteError); !errors.As(err, &route) {
		t.Fatalf("got %v", err)
	}
	if got := m.observe().Masquerade.Nodes; slices.Contains(got, gone) {
		t.Errorf("the set still has %s among %s", gone, got)
	}
}

// Errors of a kernel without nf_tables are distinguished from others.
func TestErrorsWithoutNetfilter(t *testing.T) {
	for err, without := range map[error]bool{unix.EPROTONOSUPPORT: true, unix.EINVAL: true, unix.ENOMEM: false} {
		if got := withoutNFT(err); !errors.Is(got, err) || errors.Is(got, errNoNFT) != without {
			t.Errorf("%v became %v", err, got)
		}
	}
	if err := withoutNFT(nil); err != nil {
		t.Errorf("nothing became %v", err)
	}
}

// Sockets for our table that can't be made are reported, and the table counts as it was.
func TestRefusedSocketsOfTheTableAreReported(t *testing.T) {
	for name, loses := range map[string]func(*machine){
		"notifications": func(m *machine) {
			m.must(m.nftEvents.Close())
			m.nftEvents = nil
			<-m.newEvents
		},
		"writing": func(m *machine) {
			m.must(m.nft.CloseLasting())
			m.nft, m.nftConn = nil, nil
		},
		"reading": func(m *machine) { m.must(m.nfnetlink.close()) },
	} {
		t.Run(name, func(t *testing.T) { // on a thread of its own, which ends with it
			m := newMachine(t)
			m.settle(nodes(2))
			loses(m)
			seccomp.RefuseSockets(t, unix.ENFILE, unix.AF_NETLINK, unix.NETLINK_NETFILTER)
			m.Forget()
			host, err := m.Facts(t.Context(), nil)
			m.must(err)
			if !strings.Contains(host.TableUnread, unix.ENFILE.Error()) || m.masquerade == nil {
				t.Errorf("without a socket for %s: unread for %q, and known is %+v", name, host.TableUnread, m.masquerade)
			}
		})
	}
}

// A table that could not be read is read by the next look, and then not before there is news of it.
func TestTableIsReadOnce(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	r := seccomp.NewRefuser(t)
	m.Forget()
	for i, c := range []struct{ refused, unread bool }{{true, true}, {true, true}, {false, false}, {true, false}} {
		if r.Nothing(); c.refused {
			r.Requests(unix.ENOMEM, nftGetGeneration)
		}
		host, err := m.Facts(t.Context(), nil)
		m.must(err)
		if (host.TableUnread != "") != c.unread {
			t.Errorf("look %d: unread for %q", i, host.TableUnread)
		}
	}
}

// To an agent that has just started, the destinations that the table has are not new: no flow to
// them was masqueraded.
func TestDestinationsOfATableThatIsReadAreNotNew(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	k := m.another()
	_, err := k.Observe(t.Context())
	m.must(err)
	seccomp.NewRefuser(t).Requests(unix.ENOMEM, conntrackGet)
	m.must(k.Apply(t.Context(), sets(plan.Add, plan.SetChange{AddNodes: []netip.Addr{netip.MustParseAddr("192.168.1.99")}})))
}

// If any part of the table can't be read, all of it counts as unread and unchanged.
func TestRefusedPartsOfTheTableAreReported(t *testing.T) {
	m := newMachine(t)
	m.settle(nodes(2))
	r := seccomp.NewRefuser(t)
	before := m.masquerade
	for _, kind := range []uint16{
		unix.NFT_MSG_GETGEN, unix.NFT_MSG_GETTABLE, unix.NFT_MSG_GETCHAIN, unix.NFT_MSG_GETRULE, unix.NFT_MSG_GETSET, unix.NFT_MSG_GETSETELEM,
	} {
		r.Requests(unix.ENOMEM, unix.NFNL_SUBSYS_NFTABLES<<8|kind)
		m.Forget()
		host, err := m.Facts(t.Context(), nil)
		m.must(err)
		if !strings.Contains(host.TableUnread, unix.ENOMEM.Error()) || m.masquerade != before {
			t.Errorf("without requests of kind %d: unread for %q, and known is %+v", kind, host.TableUnread, m.masquerade)
		}
	}
	for name, refused := range map[string]func() error{
		"sets":  func() error { _, err := m.shapes(); return err },
		"rules": func() error { _, err := m.expressions(); return err },
	} {
		r.Requests(unix.ENOMEM, nftGetSet, nftGetRule)
		if err := refused(); !errors.Is(err, unix.ENOMEM) {
			t.Errorf("without an answer about %s: %v", name, err)
		}
	}
	r.Nothing()
	m.settle(nodes(2))
}
