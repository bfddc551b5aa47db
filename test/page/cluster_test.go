package page

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/plainroute/plainroute/pkg/fleet"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/web"
)

// cluster returns the fleet status of a number of nodes, all of them fine.
func cluster(nodes int) *fleet.Cluster {
	now := time.Now().UTC()
	c := &fleet.Cluster{Time: now}
	for i := range nodes {
		row := fleet.Row{
			Node: fmt.Sprintf("node-%d", i+1), Subnets: []string{subnet(i + 1).String()},
			Agent: &fleet.Agent{Namespace: "plainroute-system", Pod: fmt.Sprintf("plainroute-%d", i), Started: now.Add(-time.Hour), Port: 9472},
			Report: &status.Report{
				Version: "v1.2.3", Node: fmt.Sprintf("node-%d", i+1), Ready: true,
				Host: status.Host{Addresses: []netip.Addr{address(i + 1)}},
			},
			Count: fleet.Count{Peers: nodes - 1, OK: nodes - 1}, Routes: make(fleet.Cells, nodes),
		}
		for to := range row.Routes {
			row.Routes[to] = fleet.Routed
		}
		row.Routes[i] = fleet.Self
		c.Nodes = append(c.Nodes, row)
	}
	return c
}

// lose has a node lose its route to another.
func lose(c *fleet.Cluster, from, to int, cell fleet.Cell, state status.PeerState, reason problem.Reason, detail string) {
	row := &c.Nodes[from]
	row.Routes[to] = cell
	row.Count.OK--
	row.Report.Peers = append(row.Report.Peers, status.Peer{Node: c.Nodes[to].Node, Subnet: subnet(to + 1), State: state, Message: detail})
	if reason != "" {
		row.Count.Problems++
		row.Report.Problems = append(row.Report.Problems, problem.Problem{Subject: problem.Node(c.Nodes[to].Node), Reason: reason, Message: detail})
	}
}

// brokenCluster has one of each.
func brokenCluster(nodes int) *fleet.Cluster {
	c := cluster(nodes)
	lose(c, 0, 1, fleet.Conflict, status.Conflict, problem.RouteConflict, `the kernel prefers "10.128.2.0/24 dev lo proto 3", which is not ours`)
	lose(c, 2, 1, fleet.Missing, status.Missing, "", "the kernel lacks the route 10.128.2.0/24 via 192.168.0.2 dev eth0")
	silent := &c.Nodes[3]
	silent.Report, silent.Routes, silent.Count = nil, nil, fleet.Count{}
	silent.NoReport, silent.Message = problem.NoAnswer, "no answer from the agent: it runs, but did not answer within 5s"
	sick := c.Nodes[4].Report
	sick.Ready = false
	sick.Problems = []problem.Problem{{Reason: problem.SettingFailed, Message: "net/ipv4/ip_forward is 0", BlocksReady: true}}
	c.Nodes[4].Count.Problems = 1
	c.Problems = []problem.Group{
		{Problem: problem.New(problem.Asymmetry, problem.Subject{}, "node-1 has no route back to node-2, which can reach its pods but get no answer"), Nodes: []string{"node-1", "node-2"}},
		{Problem: problem.New(problem.Versions, problem.Subject{}, "agents are of different versions: v1.2.3 on node-1 and 3 more, v1.2.4 on node-5"), Nodes: []string{"node-5"}},
	}
	return c
}

// world is a cluster that a dashboard shows.
type world struct {
	cluster atomic.Pointer[fleet.Cluster]
	failure atomic.Pointer[string]
	calls   atomic.Int64
	takes   time.Duration
}

// show has a dashboard show a cluster, and returns where.
func show(t *testing.T, c *fleet.Cluster) (*world, string) {
	t.Helper()
	return showSlowly(t, c, 0)
}

// showSlowly is show with a Collect that takes a while.
func showSlowly(t *testing.T, c *fleet.Cluster, takes time.Duration) (*world, string) {
	t.Helper()
	w := &world{takes: takes}
	w.cluster.Store(c)
	d := &web.Dashboard{
		Interval: time.Second, Timeout: 5 * time.Second,
		Collect: func(_ context.Context, progress func(int, int)) (*fleet.Cluster, error) {
			w.calls.Add(1)
			progress(1, len(c.Nodes))
			time.Sleep(w.takes)
			if why := w.failure.Load(); why != nil {
				return nil, errors.New(*why)
			}
			next := *w.cluster.Load()
			return &next, nil
		},
		Get: func(_ context.Context, a *fleet.Agent, _ string) (io.ReadCloser, error) {
			r, _ := broken(300)
			report := r.Report()
			for _, row := range w.cluster.Load().Nodes {
				if row.Agent == a {
					report.Node = row.Node
				}
			}
			text, err := json.Marshal(report)
			return io.NopCloser(bytes.NewReader(text)), err
		},
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		d.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return w, serve(t, d.Handler())
}

// visit opens a dashboard and waits until it shows a cluster.
func (b *tab) visit(url string) {
	b.t.Helper()
	b.open(url + "/")
	b.until(`document.querySelector("#nodes").checkVisibility() && document.querySelector("#nodes tbody").children.length > 2`)
}

func TestCluster(t *testing.T) {
	_, url := show(t, brokenCluster(5))
	b := browse(t)
	b.visit(url)
	b.want(`document.querySelector("#verdict").textContent.includes("something is wrong on 4 nodes") && document.title.startsWith("! ")`)
	b.want(`document.querySelector("#problems").textContent.includes("did not answer within 5s") && document.querySelector("#problems").textContent.includes("no route back")`)
	b.want(`document.querySelectorAll("#matrix td").length === 25`)
	b.want(`document.querySelectorAll("#matrix td")[1].textContent === "c"`)
	b.want(`document.querySelectorAll("#ring circle").length === 5 && document.querySelectorAll("#ring .warn-wire").length === 1 && document.querySelectorAll("#ring .bad-wire").length === 1`)
	b.want(`[...document.querySelectorAll("#nodes tbody a")].map((a) => a.textContent).join() === "node-4,node-5,node-1,node-3,node-2"`) // the worst first
	b.shoot("cluster")
	b.dark()
	b.shoot("cluster-dark")
	b.size(360, 740)
	b.want(`document.documentElement.scrollWidth <= 360`)
	b.until(`document.querySelector("#ring svg").viewBox.baseVal.width <= 360`)
	b.shoot("cluster-phone")
	b.calm()
}

// While Collect runs for the first time, the page shows its progress.
func TestFirstCollect(t *testing.T) {
	_, url := showSlowly(t, cluster(3), 3*time.Second)
	b := browse(t)
	b.run(chromedp.Navigate(url + "/"))
	b.until(`document.querySelector("#loading").textContent === "Querying all agents … 1 of 3"`)
	time.Sleep(time.Second) // some answers later, none of which is news
	b.want(`document.querySelector("#loading").checkVisibility()`)
	b.until(`!document.querySelector("#loading").checkVisibility() && document.querySelector("#nodes").checkVisibility()`)
	b.calm()
}

func TestClusterThatIsWell(t *testing.T) {
	_, url := show(t, cluster(3))
	b := browse(t)
	b.visit(url)
	b.want(`document.querySelector("#verdict").textContent.includes("all is well") && document.querySelector("#problems").textContent.includes("No problems")`)
	b.want(`!document.querySelector("#pairs").checkVisibility() && document.querySelectorAll("#ring .mesh").length === 3`)
	b.shoot("cluster-well")
	b.calm()
}

// The arrow keys move through the matrix, Enter opens the details, and they have a link to a node's
// page.
func TestMatrixByKeyboard(t *testing.T) {
	for name, nodes := range map[string]int{"table": 5, "plane": 60} {
		t.Run(name, func(t *testing.T) {
			_, url := show(t, brokenCluster(nodes))
			b := browse(t)
			b.visit(url)
			b.run(chromedp.Focus(`#matrix [tabindex="0"]`, chromedp.ByQuery), chromedp.KeyEvent(kb.ArrowRight))
			b.want(`document.querySelector("#matrix-cell").textContent.startsWith("node-1 to node-2: conflict: a foreign route takes precedence: the kernel prefers")`)
			b.run(chromedp.KeyEvent(kb.Enter))
			b.want(`document.querySelector("dialog").open && document.querySelector("dialog").textContent.includes("Route backa route")`)
			b.shoot("cluster-cell-" + name)
			b.run(chromedp.Click(`dialog a`, chromedp.ByQuery))
			b.until(`location.pathname === "/nodes/node-1" && document.querySelector("#problems")?.textContent.includes("SettingFailed")`)
			b.want(`document.querySelector("#name").textContent === "node-1" && document.querySelector("#back").checkVisibility()`)
			b.calm()
		})
	}
}

// hover moves the mouse over the dot of a pair, and expects its description.
func (b *tab) hover(from, to, nodes int, want string) {
	b.t.Helper()
	b.want(fmt.Sprintf(`(() => {
		const c = document.querySelector("#matrix canvas"), box = c.getBoundingClientRect(), block = Math.ceil(%[3]d / c.width), scale = box.width / c.width;
		return [-1, 0, 1].some((dy) => [-1, 0, 1].some((dx) => {
			c.dispatchEvent(new MouseEvent("mousemove", { clientX: box.left + Math.floor(%[2]d / block) * scale + dx, clientY: box.top + Math.floor(%[1]d / block) * scale + dy }));
			return document.querySelector("#matrix-cell").textContent.startsWith(%[4]q);
		}));
	})()`, from, to, nodes, want))
}

// The matrix of many nodes is a plane of dots; the page describes the one under the mouse.
func TestLargeCluster(t *testing.T) {
	c := brokenCluster(500)
	for i := 10; i < 500; i += 7 {
		lose(c, i, (i*13)%500, fleet.Failed, status.Failed, problem.RouteFailed, "invalid argument")
	}
	_, url := show(t, c)
	b := browse(t)
	begun := time.Now()
	b.visit(url)
	t.Logf("500 nodes: there after %s, %d elements", time.Since(begun).Round(time.Millisecond), is[int](b, `document.querySelectorAll("*").length`))
	b.want(`document.querySelector("#matrix canvas").width === 500`)
	b.run(chromedp.ScrollIntoView(`#matrix`, chromedp.ByQuery))
	b.hover(0, 1, 500, "node-1 to node-2: conflict")
	b.want(`document.querySelector("#problems").textContent.indexOf("did not answer within 5s") > 0 && document.querySelectorAll("#problems .problem").length < 10`)
	b.want(`document.querySelector("#pairs [role=status]").textContent.includes("pairs")`)
	b.shoot("cluster-500")
	b.calm()
}

// More nodes than dots: each dot is the worst of its block.
func TestHugeCluster(t *testing.T) {
	c := cluster(2000)
	lose(c, 1500, 700, fleet.Failed, status.Failed, problem.RouteFailed, "invalid argument")
	_, url := show(t, c)
	b := browse(t)
	begun := time.Now()
	b.visit(url)
	t.Logf("2,000 nodes: there after %s", time.Since(begun).Round(time.Millisecond))
	b.hover(1500, 700, 2000, "node-1501 to node-701: failed: the kernel refused it: invalid argument")
	b.shoot("cluster-2000")
	b.calm()
}

// If Collect fails the page shows the error, and the previous status stays. Without a visible page
// no agent is queried.
func TestClusterGoesAway(t *testing.T) {
	w, url := show(t, cluster(3))
	time.Sleep(1500 * time.Millisecond)
	if n := w.calls.Load(); n != 0 {
		t.Errorf("%d calls of Collect without a visible page", n)
	}
	b := browse(t)
	b.visit(url)
	why := "listing Nodes: connection refused"
	w.failure.Store(&why)
	b.until(`document.querySelector("#failure").checkVisibility()`)
	b.want(`document.querySelector("#failure").textContent.startsWith("The fleet status is not available: listing Nodes: connection refused The data shown is of ")`)
	b.want(`document.querySelector("#nodes tbody").textContent.includes("node-3")`)
	b.shoot("cluster-away")
	w.cluster.Store(brokenCluster(5))
	w.failure.Store(nil)
	b.until(`!document.querySelector("#failure").checkVisibility() && document.querySelector("#verdict").textContent.includes("wrong on 4 nodes")`)
	b.run(chromedp.Click(`#pause`, chromedp.ByQuery))
	time.Sleep(5 * time.Second)
	asked := w.calls.Load()
	time.Sleep(2 * time.Second)
	if n := w.calls.Load(); n != asked {
		t.Errorf("%d calls of Collect while it is paused", n-asked)
	}
	b.calm()
}

// A node without a report has a page too, which shows the reason.
func TestSilentNode(t *testing.T) {
	c := brokenCluster(5)
	c.Nodes[3].Agent = nil
	_, url := show(t, c)
	b := browse(t)
	b.visit(url)
	b.run(chromedp.Click(`#nodes tbody a`, chromedp.ByQuery))
	b.until(`location.pathname === "/nodes/node-4" && document.querySelector("#loading")?.textContent.includes("did not answer within 5s")`)
	b.want(`document.querySelector("#name").textContent === "node-4" && document.querySelector("#back").checkVisibility()`)
	b.shoot("cluster-silent")
}

// No name of a Node, and no text of an agent, becomes markup.
func TestHostileCluster(t *testing.T) {
	const markup = `<img src=x onerror="window.owned=1"><script>window.owned=1</script>`
	c := brokenCluster(5)
	c.Nodes[0].Node = markup
	c.Nodes[0].Report.Version = markup
	c.Nodes[1].Node = "../../x?y#z"
	c.Nodes[2].Report.Peers[0].Message = markup
	c.Problems[0].Message = markup
	_, url := show(t, c)
	b := browse(t)
	b.visit(url)
	b.want(`document.querySelector("#problems").textContent.includes("<img src=x onerror=")`)
	b.want(`window.owned === undefined && document.querySelectorAll("img, main script, [onerror]").length === 0`)
	b.want(`[...document.querySelectorAll("#nodes a")].every((a) => new URL(a.href).pathname.startsWith("/nodes/") && new URL(a.href).origin === location.origin)`)
	b.shoot("cluster-hostile")
	b.calm()
}
