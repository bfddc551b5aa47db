package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/plainroute/plainroute/pkg/text"
)

// watch repeats show until it is interrupted: on a terminal in place, otherwise one block after the
// other. The last one decides the exit code. An error of the first one ends it; later ones don't.
func watch(cmd *cobra.Command, interval time.Duration, documents bool, show func(*cobra.Command) error) error {
	out := cmd.OutOrStdout()
	s := &screen{out: out}
	defer cmd.SetOut(out)
	ticks := time.NewTicker(interval)
	defer ticks.Stop()
	var last error
	for first := true; ; first = false {
		errOut := cmd.ErrOrStderr()
		switch s.terminal = isTerminal(out); {
		case s.terminal:
			s.page.Reset()
			cmd.SetOut(s)
			errOut = s
		case documents && !first:
			fmt.Fprintln(out, "---")
		case !first:
			fmt.Fprintln(out)
		}
		err := show(cmd)
		if cmd.Context().Err() != nil {
			return last
		}
		if last = err; err != nil && !errors.Is(err, errShown) {
			if first {
				return err
			}
			fmt.Fprintln(errOut, printable(err))
		}
		s.flip()
		select {
		case <-ticks.C:
		case <-cmd.Context().Done():
			return last
		}
	}
}

// screen collects a page, and shows it on a terminal at once.
type screen struct {
	out      io.Writer
	page     bytes.Buffer
	terminal bool
}

// Write adds to the page.
func (s *screen) Write(p []byte) (int, error) { return s.page.Write(p) }

// flip writes the page over the previous one. It clears only the rest, so there is no flicker.
func (s *screen) flip() {
	f, ok := s.out.(*os.File)
	if !ok || !s.terminal {
		return
	}
	width, height, err := term.GetSize(int(f.Fd()))
	if err != nil || width == 0 || height == 0 { // some terminals have no size
		width, height = 80, 24
	}
	const home, toEndOfLine, toEndOfScreen = "\x1b[H", "\x1b[K", "\x1b[J"
	var frame strings.Builder
	frame.WriteString(home)
	for _, line := range fit(s.page.String(), width, height) {
		frame.WriteString(line + toEndOfLine + "\r\n")
	}
	_, _ = io.WriteString(f, frame.String()+toEndOfScreen)
}

// fit returns the lines of a page that a terminal has room for: it cuts rows of tables, and wraps
// indented text.
func fit(page string, width, height int) []string {
	var lines []string
	for _, line := range strings.Split(strings.TrimSuffix(page, "\n"), "\n") {
		lines = append(lines, wrap(line, width)...)
	}
	if room := max(height-1, 1); len(lines) > room {
		more := len(lines) - room + 1
		lines = append(lines[:room-1:room-1], "... "+text.More(more, "lines")+" (--problems shows only problems)")
	}
	for i, line := range lines {
		lines[i] = cut(line, width)
	}
	return lines
}

// wrap breaks indented lines at spaces, so that remediations are readable in full.
func wrap(line string, width int) []string {
	shown := colors.ReplaceAllString(line, "")
	indent := len(shown) - len(strings.TrimLeft(shown, " "))
	if indent == 0 || utf8.RuneCountInString(shown) <= width {
		return []string{line}
	}
	const deeper = 2
	words := strings.Split(line, " ")
	lines, column := words[:1:1], 0
	for _, word := range words[1:] {
		length := utf8.RuneCountInString(colors.ReplaceAllString(word, ""))
		if column > indent && column+1+length > width {
			lines, column = append(lines, strings.Repeat(" ", indent+deeper-1)), indent+deeper-1
		}
		lines[len(lines)-1] += " " + word
		column += 1 + length
	}
	return lines
}

var colors = regexp.MustCompile(`\x1b\[[0-9;]*m`)

// cut returns the first characters of a line, and all of its colors.
func cut(line string, width int) string {
	var b strings.Builder
	column, escape := 0, false
	for _, r := range line {
		switch {
		case escape:
			escape = r != 'm'
		case r == '\x1b':
			escape = true
		default:
			if column++; column > width {
				continue
			}
		}
		b.WriteRune(r)
	}
	return b.String()
}

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
