package plan

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/plainroute/plainroute/pkg/topology"
)

// What is held, nothing takes away: neither the changes, nor their loss, for what is desired then makes it anew.
func TestWhatIsHeldIsDesired(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		desired, actual := drawState(t, "desired"), drawState(t, "actual")
		held := Diff(desired, actual).Removed()
		kept := With(desired, held)
		c := Diff(kept, actual)
		sets := kept.Masquerade != nil && len(kept.Masquerade.Sources) > 0
		if len(c.Delete)+len(c.DeleteAddresses) > 0 || sets && len(c.Narrow.DeleteNodes) > 0 {
			t.Fatalf("%+v", c)
		}
		flushed := apply(t, topology.State{}, Diff(kept, topology.State{}), func(topology.State) {})
		if again := Diff(kept, flushed).WithoutCNI(); !again.KernelEmpty() {
			t.Fatalf("after a flush: %+v", again)
		}
		if again := Diff(desired, kept); len(again.Add)+len(again.Replace)+len(again.AddAddresses) > 0 {
			t.Fatalf("what is desired is not in it: %+v", again)
		}
	})
}
