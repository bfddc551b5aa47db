package dataplane

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
)

// A marked error says what it is of, and is the error that it was.
func TestPartOfAnError(t *testing.T) {
	if err := part(plan.KindSysctl, "net/x", nil); err != nil {
		t.Errorf("no error became %v", err)
	}
	err := part(plan.KindSysctl, "net/x", unix.ENOMEM)
	marked := new(PartError)
	if !errors.Is(err, unix.ENOMEM) || err.Error() != unix.ENOMEM.Error() || !errors.As(err, &marked) || marked.FailedKey() != (plan.Key{Kind: plan.KindSysctl, Name: "net/x"}) {
		t.Errorf("got %v of %+v", err, marked)
	}
}
