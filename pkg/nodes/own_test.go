package nodes

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/plainroute/plainroute/test/apiserver"
)

// Taints and conditions are decoded for our own Node alone.
func TestOwnStateIsDecoded(t *testing.T) {
	full := apiserver.Tainted()
	full.UID = "1"
	full.Spec.Taints[1].TimeAdded = nil
	raw, err := full.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for own, want := range map[string]*OwnState{
		"node1": OwnStateFrom(full), "node2": {UID: "1"}, "": {UID: "1"},
	} {
		n := &wireNode{}
		if err := n.unmarshal(raw, own); err != nil {
			t.Fatal(err)
		}
		if got := OwnStateFrom(&n.Node); !got.Equal(want) {
			t.Errorf("for %q got %+v, want %+v", own, got, want)
		}
	}
	if got := OwnStateFrom(full); got.NetworkUnavailable != corev1.ConditionTrue || len(got.Taints) != 4 {
		t.Errorf("got %+v", got)
	}
}

// A Node that is not ready for another cause does not lack its network.
func TestNetworkPluginNotReady(t *testing.T) {
	for _, c := range []struct {
		status  corev1.ConditionStatus
		message string
		want    bool
	}{
		{corev1.ConditionFalse, apiserver.NotInitialized, true},
		{corev1.ConditionFalse, "[container runtime is down, " + apiserver.NotInitialized + "]", true},
		{corev1.ConditionFalse, "PLEG is not healthy: pleg was last seen active 3m0s ago", false},
		{corev1.ConditionUnknown, "Kubelet stopped posting node status.", false},
		{corev1.ConditionTrue, "kubelet is posting ready status", false},
	} {
		n := &corev1.Node{}
		n.Name, n.Status.Conditions = "node1", apiserver.ReadyCondition(c.status, c.message)
		bytes, err := n.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		read := &wireNode{}
		if err := read.unmarshal(bytes, "node1"); err != nil {
			t.Fatal(err)
		}
		if got := OwnStateFrom(&read.Node).NoNetwork; got != c.want {
			t.Errorf("%s, %s: no network %t, want %t", c.status, c.message, got, c.want)
		}
	}
}
