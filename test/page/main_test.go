// Package page looks at the pages with a browser: Chromium without a window, driven by the DevTools protocol. It is a
// module of its own, so that the product's go.mod has no dependency on a browser.
package page

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// timeout bounds one test.
const timeout = 60 * time.Second

// tab is a browser's tab and the errors of its console.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu     sync.Mutex
	errors []string
}

// browse starts a browser of its own with one tab. Both end with the test, and the folder goes.
func browse(t *testing.T) *tab {
	t.Helper()
	path := chromium(t)
	quiet := func(string, ...any) {} // the library lacks some of the browser's events
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()), chromedp.WindowSize(1280, 900))
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), timeout) // the cleanup below ends it
	t.Cleanup(cancel)
	ctx, end := chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(end)
	ctx, leave := chromedp.NewContext(ctx, chromedp.WithErrorf(quiet))
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil {
			t.Logf("ending the browser: %v", err)
		}
		leave()
	})
	b := &tab{t: t, ctx: ctx}
	chromedp.ListenTarget(ctx, b.listen)
	b.run(cdplog.Enable(), runtime.Enable())
	return b
}

// chromium returns the path of a browser. Without one the test is skipped; CI installs one.
func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatal("there is no Chromium, and CI is to have one")
	}
	t.Skip("there is no Chromium on this machine: NOTHING of the pages was tested in a browser")
	return ""
}

// listen records exceptions of scripts and refusals of the browser.
func (b *tab) listen(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		b.errors = append(b.errors, e.ExceptionDetails.Error())
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.APITypeError || e.Type == runtime.APITypeWarning {
			b.errors = append(b.errors, "the console shows "+string(e.Args[0].Value)+e.Args[0].Description)
		}
	case *cdplog.EventEntryAdded:
		if e.Entry.Level == cdplog.LevelError || e.Entry.Level == cdplog.LevelWarning {
			b.errors = append(b.errors, e.Entry.Text)
		}
	}
}

// calm fails the test if the console has errors.
func (b *tab) calm() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.errors {
		b.t.Errorf("the browser reports: %s", c)
	}
}

func (b *tab) run(actions ...chromedp.Action) {
	b.t.Helper()
	if err := chromedp.Run(b.ctx, actions...); err != nil {
		b.t.Fatal(err)
	}
}

// open goes to a page and waits until it shows something.
func (b *tab) open(url string) {
	b.t.Helper()
	b.run(chromedp.Navigate(url))
	b.until(`!document.querySelector("main").hidden`)
}

// is evaluates an expression.
func is[T any](b *tab, expression string) T {
	b.t.Helper()
	var value T
	b.run(chromedp.Evaluate(expression, &value, awaited))
	return value
}

// awaited waits for an expression's promise.
func awaited(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }

// until waits for an expression to be true.
func (b *tab) until(expression string) {
	b.t.Helper()
	for end := time.Now().Add(15 * time.Second); !is[bool](b, "Boolean("+expression+")"); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("it does not come true: %s\n%s", expression, is[string](b, "document.body.innerText.slice(0, 2000)"))
		}
	}
}

// want fails the test unless an expression is true.
func (b *tab) want(expression string) {
	b.t.Helper()
	if !is[bool](b, "Boolean("+expression+")") {
		b.t.Errorf("it is not true: %s", expression)
	}
}

func (b *tab) size(width, height int64) {
	b.t.Helper()
	b.run(chromedp.EmulateViewport(width, height))
}

func (b *tab) dark() {
	b.t.Helper()
	b.run(emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}}))
}

// shoot takes a picture of the whole page for people to look at, if $SCREENSHOTS names a folder.
func (b *tab) shoot(name string) {
	b.t.Helper()
	folder := os.Getenv("SCREENSHOTS")
	if folder == "" {
		return
	}
	var picture []byte
	b.run(chromedp.FullScreenshot(&picture, 100))
	if err := os.WriteFile(filepath.Join(folder, name+".png"), picture, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// serve serves until the test ends.
func serve(t *testing.T, handler http.Handler) string {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return strings.Replace(s.URL, "127.0.0.1", "localhost", 1)
}
