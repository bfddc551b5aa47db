package dataplane

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/pkg/plan"
)

// A marked error has the object's key, and unwraps to the original.
func TestPartOfAnError(t *testing.T) {
	if err := part(plan.Sysctl{Path: "net/x"}, nil); err != nil {
		t.Errorf("no error became %v", err)
	}
	err := part(plan.Sysctl{Path: "net/x"}, unix.ENOMEM)
	marked := new(PartError)
	if !errors.Is(err, unix.ENOMEM) || err.Error() != unix.ENOMEM.Error() || !errors.As(err, &marked) || marked.FailedKey() != (plan.Key{Kind: plan.KindSysctl, Name: "net/x"}) {
		t.Errorf("got %v of %+v", err, marked)
	}
}
