package nodestatus

import (
	"errors"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// A patch that another writer keeps reverting leads to one request a minute in the end, and to one
// Problem that lasts until the writer stops.
func TestRevertedPatch(t *testing.T) {
	r := newRetryState(networkAvailable())
	now, done := time.Now(), 0
	attempt := func() (string, time.Duration) { return r.attempt(now, "1", func() error { done++; return nil }) }
	reported, first := 0, 0
	for range 600 { // undone every second for ten minutes
		problem, wait := attempt()
		if wait <= 0 || wait > maxRetryWait {
			t.Fatalf("after %d attempts the pause is %s", done, wait)
		}
		if strings.Contains(problem, "another writer keeps") {
			if reported++; reported == 1 {
				first = done
			}
		} else if reported > 0 {
			t.Fatalf("it is not reported any more, after %d attempts", done)
		}
		if problem, _ := r.idle(now); reported > 0 && problem == "" {
			t.Fatal("it is not reported while the patch is not needed for a moment")
		}
		now = now.Add(time.Second)
	}
	if done < 10 || done > 20 || first != maxSilentReverts+1 {
		t.Errorf("%d attempts in ten minutes, reported from number %d on", done, first)
	}
	if _, wait := r.idle(r.last.Add(maxRetryWait)); wait != maxRetryWait {
		t.Errorf("it is reported for %s more, a pause after the last attempt", wait)
	}
	if _, wait := r.attempt(r.last.Add(2*maxRetryWait), "1", func() error { return errors.New("no way") }); wait != maxRetryWait {
		t.Errorf("well for no longer than two pauses, the next pause is %s", wait)
	}
	if problem, _ := r.idle(r.last); !strings.Contains(problem, "another writer keeps") {
		t.Errorf("after a failure among them it says %q", problem)
	}
	if problem, wait := r.idle(r.last.Add(2 * maxRetryWait)); problem != "" || wait != 0 {
		t.Errorf("at the end of two pauses it says %q, for %s", problem, wait)
	}
	now = r.last.Add(2*maxRetryWait + time.Second)
	if problem, wait := r.idle(now); problem != "" || wait != 0 {
		t.Errorf("long after, it says %q, for %s", problem, wait)
	}
	if problem, wait := attempt(); problem != "" || wait != minRetryWait {
		t.Errorf("anew, it says %q and pauses %s", problem, wait)
	}
}

// A failure is reported at once, and forgotten once the patch is not needed.
func TestFailedPatch(t *testing.T) {
	r := newRetryState(startupTaint("a"))
	problem, wait := r.attempt(time.Now(), "1", func() error { return errors.New("no way") })
	if problem != "removing the taint a from our Node: no way" || wait != minRetryWait {
		t.Errorf("got %q, %s", problem, wait)
	}
	if problem, wait := r.idle(time.Now()); problem != "" || wait != 0 {
		t.Errorf("got %q, %s", problem, wait)
	}
	tried := false
	if problem, _ := r.attempt(time.Now(), "2", func() error { tried = true; return nil }); problem != "" || !tried {
		t.Errorf("of another Node it says %q at once, tried: %t", problem, tried)
	}
}

// A patch that is reverted a few times is not reported.
func TestPatchRevertedAFewTimes(t *testing.T) {
	r, now := newRetryState(networkAvailable()), time.Now()
	for range maxSilentReverts {
		problem, wait := r.attempt(now, "1", func() error { return nil })
		if again, after := r.idle(now); problem != "" || again != "" || after != 0 {
			t.Errorf("it says %q, then %q, for %s", problem, again, after)
		}
		now = now.Add(wait)
	}
}

// Attempts that were refused do not count as reverted.
func TestPatchAfterRefusals(t *testing.T) {
	r, now := newRetryState(networkAvailable()), time.Now()
	for range 2 * maxSilentReverts {
		_, wait := r.attempt(now, "1", func() error { return errors.New("no way") })
		now = now.Add(wait)
	}
	if problem, _ := r.attempt(now, "1", func() error { return nil }); problem != "" {
		t.Errorf("once it is done, it says %q", problem)
	}
	if problem, wait := r.idle(now); problem != "" || wait != 0 {
		t.Errorf("after that it says %q, for %s", problem, wait)
	}
}

// A patch that the server finds invalid is not reported the first time, because the Node may have changed since the last
// watch event. The second time it is reported. A forbidden patch is reported at once.
func TestInvalidPatchIsReportedTheSecondTime(t *testing.T) {
	kind := schema.GroupKind{Kind: "Node"}
	now, invalid := time.Now(), apierrors.NewInvalid(kind, "node1", nil)
	r := newRetryState(startupTaint("a"))
	if problem, _ := r.attempt(now, "1", func() error { return invalid }); problem != "" {
		t.Errorf("the first time it says %q", problem)
	}
	if problem, _ := r.attempt(now.Add(maxRetryWait), "1", func() error { return invalid }); !strings.Contains(problem, invalid.Error()) {
		t.Errorf("the second time it says %q", problem)
	}
	r = newRetryState(startupTaint("a"))
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "nodes"}, "node1", nil)
	if problem, _ := r.attempt(now, "1", func() error { return forbidden }); !strings.Contains(problem, forbidden.Error()) {
		t.Errorf("of what is forbidden it says %q", problem)
	}
}
