package other

import "testing"

func TestBoth(t *testing.T) {
	if Both(true, false) || !Both(true, true) {
		t.Error("it is not both")
	}
}
