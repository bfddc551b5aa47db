package controllers

import (
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// firstPause is what an attempt is followed by at least: its outcome comes with the
	// watch.
	firstPause = time.Second
	// lastPause bounds what a refusal, or somebody who undoes it all, costs the API
	// server: one request a minute.
	lastPause = time.Minute
	// undoneOften is how often somebody may undo it before it is told.
	undoneOften = 5
)

// A duty is a proclamation and how it went so far.
type duty struct {
	proclamation
	of       types.UID // the Node that attempts were made on
	attempts int
	made     int // attempts that succeeded
	last     time.Time
	err      error  // of the last attempt
	trouble  string // guarded by the Herald's lock
}

func newDuty(p proclamation) *duty { return &duty{proclamation: p} }

// attempt does it to a Node if its time has come. It returns what is wrong, and when
// to look again. Pauses double, and are forgotten once all was well for longer than
// any, or the Node is another.
func (d *duty) attempt(now time.Time, of types.UID, do func() error) (trouble string, wait time.Duration) {
	if now.Sub(d.last) > 2*lastPause || d.of != of {
		d.attempts, d.made, d.of = 0, 0, of
	}
	if wait := d.pause() - now.Sub(d.last); d.attempts > 0 && wait > 0 {
		return d.says(), wait
	}
	d.attempts++
	if d.err = do(); d.err == nil {
		d.made++
	}
	d.last = now
	return d.says(), d.pause()
}

// rest is for when there is nothing to do. That somebody undoes it is told until that
// has stopped, not each time anew.
func (d *duty) rest(now time.Time) (trouble string, wait time.Duration) {
	d.err = nil
	if wait = 2*lastPause - now.Sub(d.last); d.made <= undoneOften || wait <= 0 {
		return "", 0
	}
	return d.says(), wait
}

func (d *duty) pause() time.Duration {
	return min(firstPause<<min(d.attempts, 10)/2, lastPause)
}

func (d *duty) says() string {
	switch {
	case apierrors.IsInvalid(d.err) && d.attempts < 2:
		return "" // the Node has changed since we looked
	case d.err != nil && (apierrors.IsForbidden(d.err) || apierrors.IsInvalid(d.err)):
		return d.String() + ": " + d.err.Error() + " (" + d.advice() + ")"
	case d.err != nil:
		return d.String() + ": " + d.err.Error()
	case d.made > undoneOften:
		return d.String() + ": " + d.undone()
	}
	return ""
}
