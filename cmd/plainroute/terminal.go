package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"
)

// isTerminal reports whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// colorful reports whether output to w may have colors (https://no-color.org).
func colorful(w io.Writer) bool {
	if s, ok := w.(*screen); ok {
		w = s.out
	}
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(w)
}

// progress reports on w how far something has come: on a terminal in one line that it rewrites,
// otherwise in a line now and then.
type progress struct {
	w        io.Writer
	what     string
	terminal bool
	next     time.Time
	shown    bool
}

const (
	progressDelay    = time.Second // before the first report
	terminalInterval = 100 * time.Millisecond
	lineInterval     = 10 * time.Second
)

func newProgress(w io.Writer, what string) *progress {
	return &progress{w: w, what: what, terminal: isTerminal(w), next: time.Now().Add(progressDelay)}
}

func (p *progress) show(done, all int) {
	if time.Now().Before(p.next) {
		return
	}
	if p.shown = true; p.terminal {
		p.next = time.Now().Add(terminalInterval)
		fmt.Fprintf(p.w, "\r\x1b[K%s: %d of %d", p.what, done, all)
		return
	}
	p.next = time.Now().Add(lineInterval)
	fmt.Fprintf(p.w, "%s: %d of %d\n", p.what, done, all)
}

// end clears the line on a terminal.
func (p *progress) end() {
	if p.shown && p.terminal {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
