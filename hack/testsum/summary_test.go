package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
)

// TestSummary has go test's events in testdata, and below them what is to be printed.
func TestSummary(t *testing.T) {
	archive, err := txtar.ParseFile("testdata/events.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(archive.Files); i += 2 {
		events, want := archive.Files[i], archive.Files[i+1]
		t.Run(strings.TrimSuffix(events.Name, ".json"), func(t *testing.T) {
			var out bytes.Buffer
			sum := newSummary(&out, func() time.Time { return time.Unix(0, 0) })
			follow(bytes.NewReader(events.Data), sum)
			code := sum.finish()
			if got := out.String(); got != string(want.Data) {
				t.Errorf("printed\n%s\nwant\n%s", got, want.Data)
			}
			if failed := !strings.Contains(string(want.Data), "\ndone "); failed != (code != 0) {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

// TestRemind waits on a clock of its own.
func TestRemind(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(0, 0)
	sum := newSummary(&out, func() time.Time { return now })
	wait := func(seconds int) string {
		out.Reset()
		for range seconds {
			now = now.Add(time.Second)
			sum.remind()
		}
		return out.String()
	}
	expect := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("printed %q, want %q", got, want)
		}
	}
	expect(wait(9), "")
	expect(wait(1), "     compiling, 10 s since the start\n")
	sum.add(event{Action: "start", Package: "example.org/a/b/pkg/c"})
	expect(wait(10), "     running pkg/c\n")
	sum.add(event{Action: "run", Package: "example.org/a/b/pkg/c", Test: "TestSlow"})
	expect(wait(20), "     running pkg/c.TestSlow (10 s)\n     running pkg/c.TestSlow (20 s)\n")
}

func TestExitCode(t *testing.T) {
	if code, err := exitCode(nil); code != 0 || err != nil {
		t.Errorf("success is %d, %v", code, err)
	}
	if code, err := exitCode(os.ErrClosed); code != 1 || err == nil {
		t.Errorf("a failure to wait is %d, %v", code, err)
	}
}
