package nodestatus

import (
	"errors"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Whoever undoes it costs the API server a request a minute in the end, and is told
// of, once, until it stops.
func TestRevertedPatch(t *testing.T) {
	d := newRetryState(networkAvailable())
	now, done := time.Now(), 0
	attempt := func() (string, time.Duration) { return d.attempt(now, "1", func() error { done++; return nil }) }
	told, first := 0, 0
	for range 600 { // undone every second for ten minutes
		problem, wait := attempt()
		if wait <= 0 || wait > maxRetryWait {
			t.Fatalf("after %d attempts the pause is %s", done, wait)
		}
		if strings.Contains(problem, "again and again") {
			if told++; told == 1 {
				first = done
			}
		} else if told > 0 {
			t.Fatalf("it is told no more, after %d attempts", done)
		}
		if problem, _ := d.idle(now); told > 0 && problem == "" {
			t.Fatal("it is not told while all is well for a moment")
		}
		now = now.Add(time.Second)
	}
	if done < 10 || done > 20 || first != maxSilentReverts+1 {
		t.Errorf("%d attempts in ten minutes, told from number %d on", done, first)
	}
	if _, wait := d.idle(d.last.Add(maxRetryWait)); wait != maxRetryWait {
		t.Errorf("it is told for %s more, a pause after the last attempt", wait)
	}
	if _, wait := d.attempt(d.last.Add(2*maxRetryWait), "1", func() error { return errors.New("no way") }); wait != maxRetryWait {
		t.Errorf("well for no longer than two pauses, the next pause is %s", wait)
	}
	if problem, _ := d.idle(d.last); !strings.Contains(problem, "again and again") {
		t.Errorf("after a failure among them it says %q", problem)
	}
	if problem, wait := d.idle(d.last.Add(2 * maxRetryWait)); problem != "" || wait != 0 {
		t.Errorf("at the end of two pauses it says %q, for %s", problem, wait)
	}
	now = d.last.Add(2*maxRetryWait + time.Second)
	if problem, wait := d.idle(now); problem != "" || wait != 0 {
		t.Errorf("long after, it says %q, for %s", problem, wait)
	}
	if problem, wait := attempt(); problem != "" || wait != minRetryWait {
		t.Errorf("anew, it says %q and pauses %s", problem, wait)
	}
}

// A failure is told at once, and forgotten once there is nothing to do.
func TestFailedPatch(t *testing.T) {
	d := newRetryState(startupTaint("a"))
	problem, wait := d.attempt(time.Now(), "1", func() error { return errors.New("no way") })
	if problem != "removing the taint a from our Node: no way" || wait != minRetryWait {
		t.Errorf("got %q, %s", problem, wait)
	}
	if problem, wait := d.idle(time.Now()); problem != "" || wait != 0 {
		t.Errorf("got %q, %s", problem, wait)
	}
	tried := false
	if problem, _ := d.attempt(time.Now(), "2", func() error { tried = true; return nil }); problem != "" || !tried {
		t.Errorf("of another Node it says %q at once, tried: %t", problem, tried)
	}
}

// What was done a few times is not told, and not looked at again.
func TestPatchRevertedAFewTimes(t *testing.T) {
	d, now := newRetryState(networkAvailable()), time.Now()
	for range maxSilentReverts {
		problem, wait := d.attempt(now, "1", func() error { return nil })
		if again, after := d.idle(now); problem != "" || again != "" || after != 0 {
			t.Errorf("it says %q, then %q, for %s", problem, again, after)
		}
		now = now.Add(wait)
	}
}

// Attempts that were refused do not count as undone by somebody.
func TestPatchAfterRefusals(t *testing.T) {
	d, now := newRetryState(networkAvailable()), time.Now()
	for range 2 * maxSilentReverts {
		_, wait := d.attempt(now, "1", func() error { return errors.New("no way") })
		now = now.Add(wait)
	}
	if problem, _ := d.attempt(now, "1", func() error { return nil }); problem != "" {
		t.Errorf("once it is done, it says %q", problem)
	}
	if problem, wait := d.idle(now); problem != "" || wait != 0 {
		t.Errorf("after that it says %q, for %s", problem, wait)
	}
}

// A patch that the server finds invalid is not reported the first time, because the Node may have changed since we looked.
// It is from the second time on, like one that it forbids is at once.
func TestInvalidPatchIsReportedTheSecondTime(t *testing.T) {
	kind := schema.GroupKind{Kind: "Node"}
	now, invalid := time.Now(), apierrors.NewInvalid(kind, "node1", nil)
	d := newRetryState(startupTaint("a"))
	if problem, _ := d.attempt(now, "1", func() error { return invalid }); problem != "" {
		t.Errorf("the first time it says %q", problem)
	}
	if problem, _ := d.attempt(now.Add(maxRetryWait), "1", func() error { return invalid }); !strings.Contains(problem, invalid.Error()) {
		t.Errorf("the second time it says %q", problem)
	}
	d = newRetryState(startupTaint("a"))
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "nodes"}, "node1", nil)
	if problem, _ := d.attempt(now, "1", func() error { return forbidden }); !strings.Contains(problem, forbidden.Error()) {
		t.Errorf("of what is forbidden it says %q", problem)
	}
}
