package page

import (
	"slices"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// Limits for a page to appear, and to react to a key, so that people find it quick (web.dev/rail).
const (
	interactive = 5 * time.Second
	keystroke   = 100 * time.Millisecond
)

// Among 5,000 peers the page is there soon, keys are answered at once, few rows are in the document, and nothing jumps.
func TestLarge(t *testing.T) {
	r, look := broken(5000)
	b := browse(t)
	url := serve(t, agent(r, look).HTTP().Handler) + "/status"
	begun := time.Now()
	b.open(url)
	took := time.Since(begun)
	b.want(`document.querySelector("#peers [role=status]").textContent === "4,999 peers"`)
	rows := is[int](b, `document.querySelectorAll("#peers tbody tr").length`)
	if took > interactive || rows > 100 {
		t.Errorf("it took %s, and %d rows are in the document", took, rows)
	}
	// From a key to the layout that shows its effect; the median, because other programs run here.
	var latencies []float64
	b.run(chromedp.Evaluate(`(async () => {
		const input = document.querySelector("#peers input"), took = [];
		for (const text of ["n", "no", "node-", "node-4", "node-49", "node-499", "node-4999", "node-499", "", "10.130", "ok"]) {
			const begun = performance.now();
			input.value = text;
			input.dispatchEvent(new Event("input"));
			document.body.getBoundingClientRect();
			took.push(performance.now() - begun);
			await new Promise((done) => setTimeout(done, 20));
		}
		return took;
	})()`, &latencies, awaited))
	slices.Sort(latencies)
	key := time.Duration(latencies[len(latencies)/2] * float64(time.Millisecond))
	if key > keystroke {
		t.Errorf("a key takes %s: %v", key, latencies)
	}
	sort := is[float64](b, `(() => { const begun = performance.now(); document.querySelector("th[data-key=node] button").click(); return performance.now() - begun })()`)
	b.run(chromedp.Evaluate(`document.querySelector("#peers .scroll").scrollTop = 1e9`, nil))
	b.until(nodes + `.includes("node-5000")`)
	b.run(chromedp.Evaluate(`{ const box = document.querySelector("#peers .scroll"); box.scrollIntoView(); box.scrollTop = 60000 }`, nil))
	b.until(`(() => { const box = document.querySelector("#peers .scroll").getBoundingClientRect();
		return document.elementFromPoint(box.left + 300, box.top + 300)?.closest("tr:not(.gap)") != null })()`)
	t.Logf("5,000 peers: there after %s, a key takes %s, %.1f ms at most, sorting %.0f ms, %d rows in the document", took.Round(time.Millisecond), key.Round(100*time.Microsecond), latencies[len(latencies)-1], sort, rows)
	shift := is[float64](b, `new Promise((done) => new PerformanceObserver((l) => done(l.getEntries().reduce((s, e) => s + e.value, 0))).observe({ type: "layout-shift", buffered: true }) || setTimeout(() => done(0), 300))`)
	if shift > 0.1 { // the limit of "good" by web.dev/cls
		t.Errorf("the layout shifts by %v", shift)
	}
	b.shoot("node-5000")
	b.calm()
}
