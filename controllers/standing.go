package controllers

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// standing is what the API server says of our own Node besides what routes come of:
// whether it counts as one with a network. Of other Nodes it is not even read.
type standing struct {
	uid types.UID
	// unavailable is the status of the condition NetworkUnavailable, empty if there is
	// none, and by whose reason.
	unavailable corev1.ConditionStatus
	reason      string
	// noNetwork reports whether the kubelet reports NetworkPluginNotReady.
	noNetwork bool
	// taints are all, in their order.
	taints []taint
}

type taint struct {
	key    string
	effect corev1.TaintEffect
}

func (s *standing) equal(o *standing) bool {
	if s == nil || o == nil {
		return s == o
	}
	return s.uid == o.uid && s.unavailable == o.unavailable && s.reason == o.reason && s.noNetwork == o.noNetwork && slices.Equal(s.taints, o.taints)
}

func standingOf(n *corev1.Node) *standing {
	s := &standing{uid: n.UID}
	for _, c := range n.Status.Conditions {
		switch c.Type {
		case corev1.NodeNetworkUnavailable:
			s.unavailable, s.reason = c.Status, c.Reason
		case corev1.NodeReady:
			s.noNetwork = saysNoNetwork(c)
		}
	}
	for _, t := range n.Spec.Taints {
		s.taints = append(s.taints, taint{t.Key, t.Effect})
	}
	return s
}

// readTaint reads message Taint of k8s.io/api/core/v1/generated.proto.
func readTaint(b []byte, s *corev1.NodeSpec) error {
	var t corev1.Taint
	err := eachField(b, func(number protowire.Number, value []byte) error {
		switch number {
		case 1:
			t.Key = string(value)
		case 3:
			t.Effect = corev1.TaintEffect(value)
		}
		return nil
	})
	s.Taints = append(s.Taints, t)
	return err
}

// networkNotReady is the reason that container runtimes give in the CRI's condition
// NetworkReady when they have loaded no CNI config (containerd's networkNotReadyReason; CRI-O
// has the same). The kubelet puts it into the message of the Node's condition Ready.
const networkNotReady = "NetworkPluginNotReady"

// saysNoNetwork reports whether the condition Ready is false because the container runtime has
// no pod network. Unknown is said by others when the kubelet is silent.
func saysNoNetwork(c corev1.NodeCondition) bool {
	return c.Status == corev1.ConditionFalse && strings.Contains(c.Message, "reason:"+networkNotReady)
}

// readCondition reads message NodeCondition of k8s.io/api/core/v1/generated.proto, if
// it is one about the network.
func readCondition(b []byte, s *corev1.NodeStatus) error {
	var c corev1.NodeCondition
	err := eachField(b, func(number protowire.Number, value []byte) error {
		switch number {
		case 1:
			c.Type = corev1.NodeConditionType(value)
		case 2:
			c.Status = corev1.ConditionStatus(value)
		case 5:
			c.Reason = string(value)
		case 6:
			c.Message = string(value)
		}
		return nil
	})
	if c.Type == corev1.NodeNetworkUnavailable || c.Type == corev1.NodeReady {
		s.Conditions = append(s.Conditions, c)
	}
	return err
}
