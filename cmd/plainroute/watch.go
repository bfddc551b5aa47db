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
)

// watch shows something again and again until it is interrupted: on a terminal in
// place, else one block after the other. The last one decides the exit code. What can't
// be seen for a while is waited for, unless it never was.
func watch(cmd *cobra.Command, interval time.Duration, documents bool, show func(*cobra.Command) error) error {
	out := cmd.OutOrStdout()
	s := &screen{out: out}
	defer cmd.SetOut(out)
	ticks := time.NewTicker(interval)
	defer ticks.Stop()
	var last error
	for first := true; ; first = false {
		if s.terminal = isTerminal(out); s.terminal {
			s.page.Reset()
			cmd.SetOut(s)
		} else if !first {
			separate(out, documents)
		}
		err := show(cmd)
		if cmd.Context().Err() != nil {
			return last
		}
		if last = err; err != nil && !errors.Is(err, errShown) {
			if first {
				return err
			}
			complain(cmd, s, err)
		}
		s.flip()
		select {
		case <-ticks.C:
		case <-cmd.Context().Done():
			return last
		}
	}
}

// complain says, on the screen if there is one, why there is nothing to see.
func complain(cmd *cobra.Command, s *screen, err error) {
	w := cmd.ErrOrStderr()
	if s.terminal {
		w = s
	}
	fmt.Fprintln(w, printable(err))
}

// separate begins another block.
func separate(w io.Writer, documents bool) {
	if documents {
		fmt.Fprintln(w, "---")
		return
	}
	fmt.Fprintln(w)
}

// screen collects what is written, and shows it on a terminal at once.
type screen struct {
	out      io.Writer
	page     bytes.Buffer
	terminal bool
}

// Write collects.
func (s *screen) Write(p []byte) (int, error) { return s.page.Write(p) }

// flip puts the page on the terminal over the one before. There is no flicker, for
// nothing is cleared that is written again.
func (s *screen) flip() {
	f, ok := s.out.(*os.File)
	if !ok || !s.terminal {
		return
	}
	width, height, err := term.GetSize(int(f.Fd()))
	if err != nil || width == 0 || height == 0 { // as some that nobody has told theirs
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

// fit makes a page what a terminal holds, so that it need not scroll: the rows of tables are cut, and words go on in the next line.
func fit(page string, width, height int) []string {
	var lines []string
	for _, line := range strings.Split(strings.TrimSuffix(page, "\n"), "\n") {
		lines = append(lines, wrap(line, width)...)
	}
	if room := max(height-1, 1); len(lines) > room {
		more := len(lines) - room + 1
		lines = append(lines[:room-1:room-1], fmt.Sprintf("... %d lines more (--problems leaves out what is well)", more))
	}
	for i, line := range lines {
		lines[i] = cut(line, width)
	}
	return lines
}

// wrap breaks what is told in words, which is indented, at spaces: who is to do something must be able to read what.
func wrap(line string, width int) []string {
	shown := colours.ReplaceAllString(line, "")
	indent := len(shown) - len(strings.TrimLeft(shown, " "))
	if indent == 0 || utf8.RuneCountInString(shown) <= width {
		return []string{line}
	}
	const deeper = 2
	words := strings.Split(line, " ")
	lines, column := words[:1:1], 0
	for _, word := range words[1:] {
		length := utf8.RuneCountInString(colours.ReplaceAllString(word, ""))
		if column > indent && column+1+length > width {
			lines, column = append(lines, strings.Repeat(" ", indent+deeper-1)), indent+deeper-1
		}
		lines[len(lines)-1] += " " + word
		column += 1 + length
	}
	return lines
}

var colours = regexp.MustCompile(`\x1b\[[0-9;]*m`)

// cut leaves so many characters of a line, and all of its colours.
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
