package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// screen prints a line for each event when it happens, with the time since the start.
type screen struct {
	out    io.Writer
	start  time.Time
	color  bool
	checks int
}

// newScreen uses color on a terminal only, and not when NO_COLOR is set (no-color.org).
func newScreen(out *os.File) *screen {
	_, err := unix.IoctlGetTermios(int(out.Fd()), unix.TCGETS)
	return &screen{
		out: out, start: time.Now(),
		color: err == nil && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb",
	}
}

const (
	bold  = "1"
	dim   = "2"
	red   = "31"
	green = "32"
)

func (s *screen) paint(style, text string) string {
	if !s.color {
		return text
	}
	return "\x1b[" + style + "m" + text + "\x1b[0m"
}

func (s *screen) elapsed() string {
	return s.paint(dim, fmt.Sprintf("%6.2fs", time.Since(s.start).Seconds()))
}

func (s *screen) section(title string) {
	fmt.Fprintf(s.out, "\n%s\n", s.paint(bold, title))
}

// note prints a step that was done.
func (s *screen) note(format string, args ...any) {
	fmt.Fprintf(s.out, "%s      %s\n", s.elapsed(), fmt.Sprintf(format, args...))
}

// passed prints a check that passed.
func (s *screen) passed(format string, args ...any) {
	s.checks++
	fmt.Fprintf(s.out, "%s  %s  %s\n", s.elapsed(), s.paint(green, "ok"), fmt.Sprintf(format, args...))
}

// text shows the output of a command.
func (s *screen) text(command, output string) {
	fmt.Fprintf(s.out, "%s      %s\n", s.elapsed(), s.paint(bold, command))
	for line := range strings.Lines(output) {
		fmt.Fprintf(s.out, "               %s\n", strings.TrimRight(line, "\n"))
	}
}

func (s *screen) failed(err error) {
	fmt.Fprintf(s.out, "\n%s  %s: %v\nEverything is taken down.\n", s.elapsed(), s.paint(red, "FAILED"), err)
}

func (s *screen) interrupted() {
	fmt.Fprintf(s.out, "\n%s  interrupted; everything is taken down.\n", s.elapsed())
}

func (s *screen) finished() {
	fmt.Fprintf(s.out, "\n%s  %s\n", s.elapsed(), s.paint(green, fmt.Sprintf("all %d checks passed", s.checks)))
}

// milliseconds is a duration as people compare it here.
func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}
