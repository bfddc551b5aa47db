package nodes

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// OwnState is the part of this node's own Node that leads to no routes: whether the cluster
// regards its network as available. It is not read of other Nodes.
type OwnState struct {
	UID                types.UID
	NetworkUnavailable corev1.ConditionStatus // of that condition; empty: the Node lacks it
	Reason             string                 // of that condition; empty: the Node lacks it
	NoNetwork          bool                   // the kubelet reports NetworkPluginNotReady
	Taints             []Taint                // all taints of the Node, in their order
}

// Taint is a taint without its value.
type Taint struct {
	Key    string
	Effect corev1.TaintEffect
}

// Equal reports whether both are nil, or equal.
func (s *OwnState) Equal(o *OwnState) bool {
	if s == nil || o == nil {
		return s == o
	}
	return s.UID == o.UID && s.NetworkUnavailable == o.NetworkUnavailable && s.Reason == o.Reason &&
		s.NoNetwork == o.NoNetwork && slices.Equal(s.Taints, o.Taints)
}

// OwnStateFrom returns the OwnState of a Node.
func OwnStateFrom(n *corev1.Node) *OwnState {
	s := &OwnState{UID: n.UID}
	for _, c := range n.Status.Conditions {
		switch c.Type {
		case corev1.NodeNetworkUnavailable:
			s.NetworkUnavailable, s.Reason = c.Status, c.Reason
		case corev1.NodeReady:
			// The status Unknown comes from the node lifecycle controller, not from the kubelet.
			s.NoNetwork = c.Status == corev1.ConditionFalse && strings.Contains(c.Message, "reason:"+NetworkPluginNotReady)
		}
	}
	for _, t := range n.Spec.Taints {
		s.Taints = append(s.Taints, Taint{t.Key, t.Effect})
	}
	return s
}

// NetworkPluginNotReady is the reason in the CRI's condition NetworkReady while a container
// runtime has loaded no CNI config (networkNotReadyReason of containerd; CRI-O uses the
// same). The kubelet copies it into the message of the Node's condition Ready.
const NetworkPluginNotReady = "NetworkPluginNotReady"

// readTaint reads message Taint of k8s.io/api/core/v1/generated.proto.
func readTaint(b []byte, s *corev1.NodeSpec) error {
	var key, effect string
	err := readFields(b, &key, nil, &effect)
	s.Taints = append(s.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffect(effect)})
	return err
}

// readCondition reads message NodeCondition of k8s.io/api/core/v1/generated.proto, and keeps the
// conditions that OwnStateFrom looks at.
func readCondition(b []byte, s *corev1.NodeStatus) error {
	var kind, state, reason, message string
	err := readFields(b, &kind, &state, nil, nil, &reason, &message)
	c := corev1.NodeCondition{Type: corev1.NodeConditionType(kind), Status: corev1.ConditionStatus(state), Reason: reason, Message: message}
	if c.Type == corev1.NodeNetworkUnavailable || c.Type == corev1.NodeReady {
		s.Conditions = append(s.Conditions, c)
	}
	return err
}
