package controllers

import (
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Whoever undoes it costs the API server a request a minute in the end, and is told
// of, once, until it stops.
func TestDutyUndone(t *testing.T) {
	d := newDuty(networkAvailable{})
	now, done := time.Now(), 0
	attempt := func() (string, time.Duration) { return d.attempt(now, "1", func() error { done++; return nil }) }
	told, first := 0, 0
	for range 600 { // undone every second for ten minutes
		trouble, wait := attempt()
		if wait <= 0 || wait > lastPause {
			t.Fatalf("after %d attempts the pause is %s", done, wait)
		}
		if strings.Contains(trouble, "again and again") {
			if told++; told == 1 {
				first = done
			}
		} else if told > 0 {
			t.Fatalf("it is told no more, after %d attempts", done)
		}
		if trouble, _ := d.rest(now); told > 0 && trouble == "" {
			t.Fatal("it is not told while all is well for a moment")
		}
		now = now.Add(time.Second)
	}
	if done < 10 || done > 20 || first != undoneOften+1 {
		t.Errorf("%d attempts in ten minutes, told from number %d on", done, first)
	}
	if _, wait := d.rest(d.last.Add(lastPause)); wait != lastPause {
		t.Errorf("it is told for %s more, a pause after the last attempt", wait)
	}
	if _, wait := d.attempt(d.last.Add(2*lastPause), "1", func() error { return errors.New("no way") }); wait != lastPause {
		t.Errorf("well for no longer than two pauses, the next pause is %s", wait)
	}
	if trouble, _ := d.rest(d.last); !strings.Contains(trouble, "again and again") {
		t.Errorf("after a failure among them it says %q", trouble)
	}
	if trouble, wait := d.rest(d.last.Add(2 * lastPause)); trouble != "" || wait != 0 {
		t.Errorf("at the end of two pauses it says %q, for %s", trouble, wait)
	}
	now = d.last.Add(2*lastPause + time.Second)
	if trouble, wait := d.rest(now); trouble != "" || wait != 0 {
		t.Errorf("long after, it says %q, for %s", trouble, wait)
	}
	if trouble, wait := attempt(); trouble != "" || wait != firstPause {
		t.Errorf("anew, it says %q and pauses %s", trouble, wait)
	}
}

// A failure is told at once, and forgotten once there is nothing to do.
func TestDutyFails(t *testing.T) {
	d := newDuty(startupTaint("a"))
	trouble, wait := d.attempt(time.Now(), "1", func() error { return errors.New("no way") })
	if trouble != "removing the taint a from our Node: no way" || wait != firstPause {
		t.Errorf("got %q, %s", trouble, wait)
	}
	if trouble, wait := d.rest(time.Now()); trouble != "" || wait != 0 {
		t.Errorf("got %q, %s", trouble, wait)
	}
	tried := false
	if trouble, _ := d.attempt(time.Now(), "2", func() error { tried = true; return nil }); trouble != "" || !tried {
		t.Errorf("of another Node it says %q at once, tried: %t", trouble, tried)
	}
}

// What was done a few times is not told, and not looked at again.
func TestDutyDoneAFewTimes(t *testing.T) {
	d, now := newDuty(networkAvailable{}), time.Now()
	for range undoneOften {
		trouble, wait := d.attempt(now, "1", func() error { return nil })
		if again, after := d.rest(now); trouble != "" || again != "" || after != 0 {
			t.Errorf("it says %q, then %q, for %s", trouble, again, after)
		}
		now = now.Add(wait)
	}
}

// Attempts that were refused do not count as undone by somebody.
func TestDutyDoneAfterRefusals(t *testing.T) {
	d, now := newDuty(networkAvailable{}), time.Now()
	for range 2 * undoneOften {
		_, wait := d.attempt(now, "1", func() error { return errors.New("no way") })
		now = now.Add(wait)
	}
	if trouble, _ := d.attempt(now, "1", func() error { return nil }); trouble != "" {
		t.Errorf("once it is done, it says %q", trouble)
	}
	if trouble, wait := d.rest(now); trouble != "" || wait != 0 {
		t.Errorf("after that it says %q, for %s", trouble, wait)
	}
}

// Of our own Node more is read off the wire than of others.
func TestStandingIsRead(t *testing.T) {
	full := tainted()
	full.UID = "1"
	full.Spec.Taints[1].TimeAdded = nil
	raw, err := full.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for own, want := range map[string]*standing{
		"node1": standingOf(full), "node2": {uid: "1"}, "": {uid: "1"},
	} {
		n := &wireNode{}
		if err := n.unmarshal(raw, own); err != nil {
			t.Fatal(err)
		}
		if got := standingOf(&n.Node); !got.equal(want) {
			t.Errorf("for %q got %+v, want %+v", own, got, want)
		}
	}
	if got := standingOf(full); got.unavailable != corev1.ConditionTrue || len(got.taints) != 4 {
		t.Errorf("got %+v", got)
	}
}

// A patch that the server finds invalid is not reported the first time, because the Node may have changed since we looked.
// It is from the second time on, like one that it forbids is at once.
func TestInvalidPatchIsReportedTheSecondTime(t *testing.T) {
	kind := schema.GroupKind{Kind: "Node"}
	now, invalid := time.Now(), apierrors.NewInvalid(kind, "node1", nil)
	d := newDuty(startupTaint("a"))
	if trouble, _ := d.attempt(now, "1", func() error { return invalid }); trouble != "" {
		t.Errorf("the first time it says %q", trouble)
	}
	if trouble, _ := d.attempt(now.Add(lastPause), "1", func() error { return invalid }); !strings.Contains(trouble, invalid.Error()) {
		t.Errorf("the second time it says %q", trouble)
	}
	d = newDuty(startupTaint("a"))
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "nodes"}, "node1", nil)
	if trouble, _ := d.attempt(now, "1", func() error { return forbidden }); !strings.Contains(trouble, forbidden.Error()) {
		t.Errorf("of what is forbidden it says %q", trouble)
	}
}
