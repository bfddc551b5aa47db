package nodes

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/test/apiserver"
)

// pagedNodes is an API server with node1 and node2, which it lists in two pages.
type pagedNodes struct {
	asked     int       // lists that began
	firstPage time.Time // when the first one did
	between   func(round int)
}

// ServeHTTP sends a page.
func (p *pagedNodes) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	name, more := "node2", "more"
	if q.URL.Query().Has("continue") {
		name, more = "node1", ""
		p.between(p.asked)
	} else if p.asked++; p.asked == 1 {
		p.firstPage = time.Now()
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"metadata":{"continue":%q},"items":[{"metadata":{"name":%q,"uid":%q}}]}`, more, name, name+"-uid")
}

func (p *pagedNodes) source(t *testing.T) *Source {
	t.Helper()
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	s, err := New(&rest.Config{Host: server.URL}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.notify = func() {}
	return s
}

// lists stores a list of Nodes with pod subnets, as the reflector does.
func lists(t *testing.T, s *Source, numbers ...int) {
	t.Helper()
	items := make([]any, 0, len(numbers))
	for _, i := range numbers {
		n := wire(apiserver.Peer(i))
		n.Name = fmt.Sprintf("node%d", i)
		n.UID = types.UID(n.Name + "-uid")
		items = append(items, n)
	}
	if err := s.Replace(items, ""); err != nil {
		t.Error(err)
	}
}

// A list that arrives during a comparison of the one before is not confirmed by it: the
// comparison may have passed the Nodes that the new list lacks.
func TestAListIsNotConfirmedByAComparisonOfTheOneBefore(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var s *Source
	server := &pagedNodes{between: func(int) { lists(t, s, 1) }}
	s = server.source(t)
	lists(t, s, 1, 2)
	done := make(chan struct{})
	go func() { s.confirm(ctx); close(done) }()
	for end := time.Now().Add(limit); s.View().ConfirmErr == nil && s.View().Confirmed.IsZero() && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	cancel() // before the second try, a second later
	<-done
	if view := s.View(); !view.Confirmed.IsZero() || view.ConfirmErr == nil || server.asked != 1 {
		t.Errorf("a list without node2 is confirmed at %s by %d comparisons, though the server has it; error: %v", view.Confirmed, server.asked, view.ConfirmErr)
	}
}

// A confirmation counts from its begin, because it may not have seen later changes.
func TestAConfirmationCountsFromItsBegin(t *testing.T) {
	server := &pagedNodes{between: func(int) { time.Sleep(50 * time.Millisecond) }}
	s := server.source(t)
	lists(t, s, 1, 2)
	s.confirm(t.Context())
	if confirmed := s.View().Confirmed; confirmed.IsZero() || confirmed.After(server.firstPage) {
		t.Errorf("confirmed at %s; want a time before the first page, %s", confirmed, server.firstPage)
	}
}

// A confirmation that satisfies Confirm is not repeated. A newer one is made, also if Confirm
// was called while one was under way.
func TestConfirmationsAreRenewedWhenNeeded(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var s *Source
	begin := time.Now()
	late := make(chan struct{})
	server := &pagedNodes{between: func(round int) {
		if round == 1 {
			s.Confirm(begin) // again, as each pass does
			s.Confirm(time.Now())
			close(late)
		}
	}}
	s = server.source(t)
	lists(t, s, 1, 2)
	done := make(chan struct{})
	go func() { s.confirmations(ctx); close(done) }()
	s.Confirm(begin)
	<-late
	needed := time.Now()
	for s.View().Confirmed.Before(needed) && time.Since(needed) < limit {
		time.Sleep(time.Millisecond)
	}
	s.Confirm(needed.Add(-time.Minute))
	time.Sleep(100 * time.Millisecond)
	cancel()
	<-done
	if server.asked != 2 {
		t.Errorf("compared %d times; want once for the first need and once for the later one", server.asked)
	}
}

// Nonsense in place of a list is an error, and not an empty list.
func TestNonsenseIsNotAList(t *testing.T) {
	for _, nonsense := range []string{"nonsense", "k8s\x00\x12\x02\xff\xff"} {
		if err := new(wireNodeList).decode([]byte(nonsense)); err == nil {
			t.Errorf("%q is a list", nonsense)
		}
	}
}

// Agents wait up to 6 ms for each Node before they compare.
func TestComparisonsAreSpread(t *testing.T) {
	s, _ := newSource(t)
	for _, n := range []int{0, 1, 1000} {
		s.view.Nodes = make([]*topology.Node, n)
		longest, most := time.Duration(0), 6*time.Millisecond*time.Duration(n+1)
		for range 1000 {
			longest = max(longest, s.confirmDelay())
		}
		if longest >= most || longest < most*9/10 {
			t.Errorf("among %d Nodes the longest wait is %s, want nearly %s", n, longest, most)
		}
	}
}

// A quorum read finds the Nodes that the view lacks, or has an older one of.
func TestConfirmationFindsWhatTheViewLacks(t *testing.T) {
	api := apiserver.Use(t)
	api.Add(apiserver.Node1(), apiserver.Peer(2), apiserver.NewNode("bare", "192.168.1.99"))
	list := func(drop string, edit func(*wireNode)) error {
		t.Helper()
		s, err := New(api.Reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		s.notify = func() {}
		var items []any
		for _, name := range []string{"node1", "node2", "bare"} {
			if name == drop {
				continue
			}
			n := wire(api.Read(name))
			edit(n)
			items = append(items, n)
		}
		if err := s.Replace(items, ""); err != nil {
			t.Fatal(err)
		}
		return s.compare(t.Context())
	}
	same := func(*wireNode) {}
	older := func(name string, f func(*wireNode)) func(*wireNode) {
		return func(n *wireNode) {
			if n.Name == name {
				f(n)
			}
		}
	}
	for what, c := range map[string]struct {
		drop  string
		edit  func(*wireNode)
		blame string
	}{
		"nothing":                    {"", same, ""},
		"a Node":                     {"node2", same, "node2"},
		"that a Node was made again": {"", older("node2", func(n *wireNode) { n.UID = "older" }), "node2"},
		"a subnet given since":       {"", older("bare", func(n *wireNode) { n.ResourceVersion = "1" }), "bare"},
		"no heartbeat of a Node":     {"", older("node2", func(n *wireNode) { n.ResourceVersion = "1" }), ""},
	} {
		err := list(c.drop, c.edit)
		switch {
		case c.blame == "" && err != nil:
			t.Errorf("the view lacks %s: %v", what, err)
		case c.blame != "" && (err == nil || !strings.Contains(err.Error(), "Node "+c.blame+",")):
			t.Errorf("the view lacks %s: got %v, want Node %s blamed", what, err, c.blame)
		}
	}
}
