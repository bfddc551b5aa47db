package page

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/plainroute/plainroute/pkg/problem"
)

// nodes are the names in the rows that are in the document.
const nodes = `[...document.querySelectorAll("#peers tbody tr:not(.gap)")].map((tr) => tr.querySelector("button").textContent)`

func TestNode(t *testing.T) {
	r, look := broken(300)
	b := browse(t)
	b.open(serve(t, agent(r, look).HTTP().Handler) + "/status")
	b.want(`document.title.startsWith("node-1")`)
	b.want(`document.querySelector("#ready").textContent.includes("Not ready")`)
	b.want(`document.querySelector("#problems .problem").textContent.includes("SettingFailed")`)
	b.want(`document.querySelector("#problems .problem").textContent.includes("/etc/sysctl.d")`)
	b.want(`document.querySelector("#drift").textContent.includes("10.128.2.0/24 via 192.168.0.2 dev eth0")`)
	b.want(`document.querySelector("#picture svg").getAttribute("aria-label").includes("node-2 missing")`)
	b.want(`document.querySelectorAll("#passes rect").length === 32`)
	b.shoot("node")
	b.dark()
	b.want(`getComputedStyle(document.body).backgroundColor === "rgb(16, 20, 24)"`)
	b.shoot("node-dark")
	b.calm()
}

// On a phone nothing is wider than the screen.
func TestNodeOnAPhone(t *testing.T) {
	r, look := broken(300)
	b := browse(t)
	b.size(360, 740)
	b.open(serve(t, agent(r, look).HTTP().Handler) + "/status")
	b.want(`document.documentElement.scrollWidth <= 360`)
	b.want(`[...document.querySelectorAll("section")].every((s) => s.getBoundingClientRect().right <= 360)`)
	b.want(`document.querySelector("#peers tbody tr:not(.gap)").getBoundingClientRect().height >= 44`) // for fingers: WCAG 2.5.5
	b.shoot("node-phone")
	b.calm()
}

func TestNodeThatIsWell(t *testing.T) {
	b := browse(t)
	b.open(serve(t, agent(result(3), nil).HTTP().Handler) + "/status")
	b.want(`document.querySelector("#ready").textContent.includes("Ready") && document.querySelector("#problems").textContent.includes("No problems")`)
	b.shoot("node-well")
	b.calm()
}

// Each peer has its path, and the route because of which it is that.
func TestPaths(t *testing.T) {
	b := browse(t)
	b.open(serve(t, agent(tunneling(), nil).HTTP().Handler) + "/status")
	const direct, tunnel = "direct by 192.168.0.0/24 dev eth0 proto 2", "tunnel to 192.168.9.3 by default via 192.168.0.254 dev eth0"
	b.want(`[...document.querySelectorAll("#peers tbody span[title]")].map((span) => span.title).join() === "` + direct + "," + tunnel + `"`)
	b.want(`document.querySelector("#picture svg").getAttribute("aria-label").endsWith("Peers: node-2 via 192.168.0.2; node-3 tunnel to 192.168.9.3")`)
	b.filter("tunnel")
	b.want(nodes + `.join() === "node-3"`)
	b.run(chromedp.Click(`#peers tbody button`, chromedp.ByQuery))
	b.want(`document.querySelector("dialog").textContent.includes("` + tunnel + `")`)
	b.shoot("node-path")
	b.calm()
}

// filter puts a text into the filter.
func (b *tab) filter(text string) {
	b.t.Helper()
	b.run(chromedp.Evaluate(fmt.Sprintf(`{ const i = document.querySelector("input"); i.value = %q; i.dispatchEvent(new Event("input")) }`, text), nil))
}

func TestSortAndFilter(t *testing.T) {
	r, look := broken(300)
	b := browse(t)
	b.open(serve(t, agent(r, look).HTTP().Handler) + "/status")
	sorted := func(column, want string) {
		t.Helper()
		b.run(chromedp.Click(`th[data-key=`+column+`] button`, chromedp.ByQuery))
		b.want(nodes + `.slice(0, 3).join() === "` + want + `"`)
	}
	b.want(nodes + `.slice(0, 4).join() === "node-4,node-2,node-3,node-5"`) // the worst first
	sorted("node", "node-2,node-3,node-4")
	b.want(`document.querySelector("th[data-key=node]").ariaSort === "ascending"`)
	sorted("node", "node-300,node-299,node-298")
	b.want(`document.querySelector("th[data-key=node]").ariaSort === "descending"`)
	sorted("subnet", "node-2,node-3,node-4")
	b.run(chromedp.SendKeys(`#peers input`, "NODE-29", chromedp.ByQuery))
	b.want(nodes + `.join() === "node-29,node-290,node-291,node-292,node-293,node-294,node-295,node-296,node-297,node-298,node-299"`)
	b.want(`document.querySelector("#peers [role=status]").textContent === "11 of 299 peers"`)
	b.filter(" 192.168.0.3 conflict")
	b.want(nodes + `.join() === "node-3"`)
	b.filter("nobody")
	b.want(nodes + `.length === 0 && document.querySelector(".nothing").checkVisibility()`)
	b.filter("")
	b.run(chromedp.Click(`button[data-state=missing]`, chromedp.ByQuery), chromedp.Click(`button[data-state=failed]`, chromedp.ByQuery))
	b.want(nodes + `.join() === "node-2,node-4"`)
	b.want(`document.querySelector("button[data-state=missing]").ariaPressed === "true"`)
	b.calm()
}

// All can be done with the keyboard.
func TestKeyboard(t *testing.T) {
	r, look := broken(300)
	b := browse(t)
	b.open(serve(t, agent(r, look).HTTP().Handler) + "/status")
	focused := `document.activeElement.textContent`
	b.run(chromedp.Focus(`#peers .scroll`, chromedp.ByQuery), chromedp.KeyEvent(kb.Tab), chromedp.KeyEvent(kb.Tab))
	b.want(focused + ` === "Node"`)
	b.run(chromedp.KeyEvent(kb.Enter))
	b.want(nodes + `[0] === "node-2"`)
	b.run(chromedp.Focus(`#peers tbody button`, chromedp.ByQuery), chromedp.KeyEvent(kb.Enter))
	b.want(`document.querySelector("dialog").open && document.querySelector("dialog").textContent.includes("the kernel lacks the route")`)
	b.shoot("node-detail")
	b.run(chromedp.KeyEvent(kb.Escape))
	b.want(`!document.querySelector("dialog").open && ` + focused + ` === "node-2"`)
	// The focus stays where it is when rows are drawn again.
	b.run(chromedp.Evaluate(`document.querySelector("#peers .scroll").scrollTop = 120`, nil))
	b.until(`document.querySelector("#peers .scroll").scrollTop === 120`)
	b.want(focused + ` === "node-2"`)
	b.calm()
}

// No name of a Node becomes markup.
func TestHostileNames(t *testing.T) {
	r, look := broken(20)
	const markup = `<img src=x onerror="window.owned=1"><script>window.owned=1</script>"'><svg onload=window.owned=1>`
	r.Nodes[6].Name = markup
	r.Nodes[7].Name = "node-\u202egnp.exe\x1b[31m\x00"
	r.Problems = append(r.Problems, problem.Problem{Subject: problem.Node(markup), Reason: problem.RouteConflict, Message: markup})
	r.Host.Bridge, r.Host.Config, r.Version = markup, markup, markup
	r.Host.Uplinks[0].Name = markup
	b := browse(t)
	b.open(serve(t, agent(r, look).HTTP().Handler) + "/status")
	b.want(`document.querySelector("#problems").textContent.includes('<img src=x onerror="window.owned=1"><script>')`)
	b.run(chromedp.Click(`th[data-key=node] button`, chromedp.ByQuery), chromedp.Click(`#peers tbody button`, chromedp.ByQuery))
	b.want(`document.querySelector("dialog h2").textContent.startsWith("<img src=x")`)
	b.want(`window.owned === undefined && document.querySelectorAll("img, main script, [onerror], [onload]").length === 0`)
	b.want(`document.body.textContent.includes("node-\\u202egnp.exe\\u001b[31m\\u0000") && !/[\u202e\x1b]/.test(document.body.textContent)`)
	b.shoot("node-hostile")
	// Nor could it: the browser makes no markup and no code of strings here.
	for _, way := range []string{`document.body.innerHTML = "<b>"`, `document.createElement("img").setAttribute("onerror", "1")`, `document.createElement("script").text = "1"`} {
		b.want(`(() => { try { ` + way + `; return false } catch { return true } })()`)
	}
}

// mortal is an agent that can go away and come back.
type mortal struct {
	http.Handler
	gone     atomic.Bool
	asked    atomic.Int64
	repeated atomic.Int64
}

func (m *mortal) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if m.gone.Load() {
		panic(http.ErrAbortHandler)
	}
	record := httptest.NewRecorder()
	m.Handler.ServeHTTP(record, r)
	for name, values := range record.Header() {
		w.Header()[name] = values
	}
	if r.URL.Query().Get("format") == "json" {
		m.asked.Add(1)
		if record.Code == http.StatusNotModified {
			m.repeated.Add(1)
		}
	}
	w.WriteHeader(record.Code)
	_, _ = w.Write(record.Body.Bytes())
}

// While an agent is away the page shows that, and keeps its last report; the page continues when it
// is back. Unchanged data is not sent again, and a paused page sends no requests.
func TestAgentGoesAway(t *testing.T) {
	m := &mortal{Handler: agent(result(5), nil).HTTP().Handler}
	b := browse(t)
	b.open(serve(t, m) + "/status")
	b.until(`document.querySelector("#age").textContent === "4 s old"`)
	for end := time.Now().Add(15 * time.Second); m.repeated.Load() == 0 && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond)
	}
	if m.repeated.Load() == 0 {
		t.Error("what has not changed is sent again")
	}
	m.gone.Store(true)
	b.until(`document.querySelector("#banner").checkVisibility()`)
	b.want(`document.querySelector("#banner").textContent.includes("The agent does not answer: no connection. The data shown is of ")`)
	b.want(`document.querySelector("#peers tbody").textContent.includes("node-5")`)
	b.shoot("node-away")
	m.gone.Store(false)
	b.until(`!document.querySelector("#banner").checkVisibility()`)
	b.run(chromedp.Click(`#pause`, chromedp.ByQuery))
	time.Sleep(time.Second) // answers under way arrive
	asked := m.asked.Load()
	time.Sleep(6 * time.Second)
	if m.asked.Load() != asked {
		t.Error("it asks while it is paused")
	}
	b.want(`document.querySelector("#pause").ariaPressed === "true" && document.querySelector("#age").textContent.startsWith("paused, ")`)
}
