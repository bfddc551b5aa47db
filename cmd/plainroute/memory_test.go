//go:build linux

package main

import (
	"debug/elf"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
)

// The pages of the start are released, and the program still works.
func TestReleaseStartupPages(t *testing.T) {
	before := resident(t)
	if err := releaseStartupPages(); err != nil {
		t.Fatal(err)
	}
	after := resident(t)
	if after >= before*3/4 {
		t.Errorf("%d KiB of files are resident, and were %d before", after, before)
	}
	root := rootCommand()
	root.SetOut(io.Discard)
	if err := root.Help(); err != nil { // any work at all
		t.Error(err)
	}
}

// A position-independent program ends at once if it loses the addresses that its loader wrote.
func TestReleaseNothingWritten(t *testing.T) {
	for _, c := range []struct {
		rights       string
		fixed, moved bool
	}{{"r-xp", true, true}, {"r--p", true, false}, {"rw-p", false, false}, {"rwxp", false, false}} {
		if got := sameAsFile(c.rights, elf.ET_EXEC); got != c.fixed {
			t.Errorf("%s of a program at its place: %t", c.rights, got)
		}
		if got := sameAsFile(c.rights, elf.ET_DYN); got != c.moved {
			t.Errorf("%s of one that was moved: %t", c.rights, got)
		}
	}
}

// resident returns RssFile of proc_pid_status(5), in KiB.
func resident(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "RssFile:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib
}
