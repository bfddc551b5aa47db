package plan

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/plainroute/plainroute/pkg/topology"
)

// An Object whose deletion waits is not deleted, and if another program deletes it, it is restored,
// because it is desired meanwhile.
func TestWhatIsHeldIsDesired(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		desired, actual := drawState(t, "desired"), drawState(t, "actual")
		held := Diff(desired, actual).Removed()
		kept := Joined(desired, held)
		c := Diff(kept, actual)
		sets := kept.Masquerade != nil && len(kept.Masquerade.Sources) > 0
		narrowed := slices.ContainsFunc(Objects[Sets](c, Delete), func(s Sets) bool { return len(s.DeleteNodes) > 0 })
		tunnels := len(Objects[Tunnel](c, Delete)) + len(Objects[Neighbor](c, Delete)) + len(Objects[FDBEntry](c, Delete))
		if tunnels+len(Objects[Route](c, Delete))+len(Objects[Address](c, Delete)) > 0 || sets && narrowed {
			t.Fatalf("%+v", c)
		}
		flushed := apply(t, topology.State{}, Diff(kept, topology.State{}), func(topology.State) {})
		if again := Diff(kept, flushed).Except(KindCNI); !again.Empty() {
			t.Fatalf("after a flush: %+v", again)
		}
		if again := Diff(desired, kept); len(Objects[Route](again, Add, Replace))+len(Objects[Address](again, Add)) > 0 {
			t.Fatalf("what is desired is not in it: %+v", again)
		}
	})
}
