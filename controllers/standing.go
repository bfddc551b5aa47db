package controllers

import (
	"slices"

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
	return s.uid == o.uid && s.unavailable == o.unavailable && s.reason == o.reason && slices.Equal(s.taints, o.taints)
}

func standingOf(n *corev1.Node) *standing {
	s := &standing{uid: n.UID}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeNetworkUnavailable {
			s.unavailable, s.reason = c.Status, c.Reason
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

// readCondition reads message NodeCondition of k8s.io/api/core/v1/generated.proto, if
// it is the one about the network.
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
		}
		return nil
	})
	if c.Type == corev1.NodeNetworkUnavailable {
		s.Conditions = append(s.Conditions, c)
	}
	return err
}
