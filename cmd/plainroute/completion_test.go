package main

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// limited are flags that take one of a few values.
var limited = []string{"output", "mode", "log-format", "log-level"}

// A flag that takes one of a few values has shells offer them, and each is taken.
func TestCompletionOffersValues(t *testing.T) {
	found := 0
	for _, cmd := range rootCommand().Commands() {
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if !slices.Contains(limited, f.Name) {
				return
			}
			found++
			offered := complete(t, cmd.Name(), "--"+f.Name+"=")
			if len(offered) < 2 || !slices.Contains(offered, f.DefValue) {
				t.Errorf("%s --%s: a shell offers %q, and the default is %q", cmd.Name(), f.Name, offered, f.DefValue)
			}
		})
	}
	if found < len(limited) {
		t.Errorf("only %d such flags are there", found)
	}
}

func TestCompletionOffersCommands(t *testing.T) {
	offered := complete(t, "")
	for _, cmd := range rootCommand().Commands() {
		if found := slices.Contains(offered, cmd.Name()); found == cmd.Hidden {
			t.Errorf("%s is hidden: %t, and a shell offers it: %t", cmd.Name(), cmd.Hidden, found)
		}
	}
}

// complete returns what a shell offers after the words.
func complete(t *testing.T, words ...string) []string {
	t.Helper()
	var out bytes.Buffer
	root := rootCommand()
	root.SetOut(&out)
	root.SetErr(io.Discard)
	root.SetArgs(append([]string{cobra.ShellCompNoDescRequestCmd}, words...))
	if err := root.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(out.String())
	if n := len(lines); n > 0 && strings.HasPrefix(lines[n-1], ":") { // the directive
		lines = lines[:n-1]
	}
	return lines
}
