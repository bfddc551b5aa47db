package inspect

import (
	"net/netip"
	"sync"
	"testing"
)

// Doctor's checks look up routes at the same time, by one Inspector.
func TestInspectorIsSafeForConcurrentUse(t *testing.T) {
	i := newMachine(t).inspector()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				if _, err := i.Lookup(netip.MustParseAddr("127.0.0.1"), "", netip.Addr{}, Selector{}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}
