package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"
)

// isTerminal tells whether somebody looks at what is written there.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// colourful tells whether what is written there may have colours (https://no-color.org).
func colourful(w io.Writer) bool {
	if s, ok := w.(*screen); ok {
		w = s.out
	}
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(w)
}

// progress says on w how far something is that lasts: on a terminal in one line that is written anew, else in a line
// now and then.
type progress struct {
	w        io.Writer
	what     string
	terminal bool
	next     time.Time
	shown    bool
}

// Progress is silent for so long, and then speaks so often on a terminal and elsewhere.
const (
	quiet  = time.Second
	often  = 100 * time.Millisecond
	rarely = 10 * time.Second
)

func newProgress(w io.Writer, what string) *progress {
	return &progress{w: w, what: what, terminal: isTerminal(w), next: time.Now().Add(quiet)}
}

func (p *progress) show(done, all int) {
	if time.Now().Before(p.next) {
		return
	}
	if p.shown = true; p.terminal {
		p.next = time.Now().Add(often)
		fmt.Fprintf(p.w, "\r\x1b[K%s: %d of %d", p.what, done, all)
		return
	}
	p.next = time.Now().Add(rarely)
	fmt.Fprintf(p.w, "%s: %d of %d\n", p.what, done, all)
}

// end takes the line off the terminal.
func (p *progress) end() {
	if p.shown && p.terminal {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
