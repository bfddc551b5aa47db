package nodes

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Health is the state of the connection to the API server.
type Health struct {
	Synced      bool      // a full list has arrived since the start
	Watching    bool      // a watch is open
	Err         error     // why the last request failed, or nil
	LastContact time.Time // when the API server last sent anything; zero: never
}

// Health returns the current state of the connection to the API server.
func (s *Source) Health() Health {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.health()
}

func (s *Source) health() Health {
	h := s.view.Health
	h.Watching = s.watches.Load() > 0
	if at := s.lastContact.Load(); at != 0 {
		h.LastContact = time.Unix(0, at).UTC()
	}
	return h
}

// recordContact records that the API server has sent something: an answer, an event, or a
// bookmark, which a quiet watch brings about once a minute (defaultBookmarkFrequency of
// k8s.io/apiserver/pkg/storage/cacher).
func (s *Source) recordContact() { s.lastContact.Store(time.Now().UnixNano()) }

// recordError records the outcome of a request. Before the first list, notify is called for
// an error of another cause; later the last list still holds.
func (s *Source) recordError(err error) {
	if err == nil {
		s.recordContact()
	}
	err = StableError(err)
	s.mu.Lock()
	news := !s.view.Synced && err != nil && !sameCause(err, s.view.Err)
	if s.view.Synced || news {
		s.view.Err = err
	}
	s.mu.Unlock()
	if news {
		s.notify()
	}
}

// sameCause reports whether two errors have one cause: a user who may not watch may not list
// either, and the reflector tries both in turn.
func sameCause(a, b error) bool {
	reason := apierrors.ReasonForError(a)
	return fmt.Sprint(a) == fmt.Sprint(b) || reason != metav1.StatusReasonUnknown && reason == apierrors.ReasonForError(b)
}

// StableError removes from the error of a request what differs at each attempt, the random
// parameters of a URL and the local port, so that one cause is one Problem.
func StableError(err error) error {
	var op *net.OpError
	var request *url.Error
	switch {
	case errors.As(err, &op):
		return fmt.Errorf("%s %s %v: %w", op.Op, op.Net, op.Addr, op.Err)
	case errors.As(err, &request):
		return request.Err
	}
	return err
}
