package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/plainroute/plainroute/test/e2e/manifests"
	"github.com/plainroute/plainroute/test/e2e/talk"
	"github.com/plainroute/plainroute/test/testutil"
)

const (
	ingressClass = "test"
	ingressPort  = 30080
	ingressHost  = "shop.example.test"
)

// extras are usual parts of a cluster: a DNS server, unless there is one, and an Ingress controller.
func (c *cluster) extras(ctx context.Context) (string, error) {
	_, err := c.api.CoreV1().Services(metav1.NamespaceSystem).Get(ctx, "kube-dns", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return manifests.CoreDNS + "\n---\n" + manifests.Ingress, nil
	}
	return manifests.Ingress, err
}

func (s *story) startExtras(ctx context.Context) (err error) {
	if s.extras, err = s.cluster.extras(ctx); err != nil {
		return err
	}
	_, err = output(ctx, s.extras, tool("kubectl"), "apply", "--filename=-")
	return err
}

func (s *story) stopExtras(ctx context.Context) error {
	if s.extras == "" {
		return nil
	}
	_, err := output(ctx, s.extras, tool("kubectl"), "delete", "--filename=-", "--wait=false")
	s.extras = ""
	return err
}

// bare is nil once no pod has a network of its own.
func (c *cluster) bare(ctx context.Context) error {
	pods, err := c.api.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("listing pods: %w", err)
	}
	for i := range pods.Items {
		if one := &pods.Items[i]; !one.Spec.HostNetwork {
			return fmt.Errorf("pod %s/%s is still there, on node %q", one.Namespace, one.Name, one.Spec.NodeName)
		}
	}
	return nil
}

// makeIngress leads requests for a host to a Service.
func (c *cluster) makeIngress(ctx context.Context) error {
	backend := networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{
		Name: serviceCluster, Port: networkingv1.ServiceBackendPort{Name: "tcp"},
	}}
	paths := &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{
		{Path: "/", PathType: ptr.To(networkingv1.PathTypePrefix), Backend: backend},
	}}
	object := &networkingv1.Ingress{
		ObjectMeta: metav1.ObjectMeta{Name: "shop"},
		Spec: networkingv1.IngressSpec{
			IngressClassName: ptr.To(ingressClass),
			Rules:            []networkingv1.IngressRule{{Host: ingressHost, IngressRuleValue: networkingv1.IngressRuleValue{HTTP: paths}}},
		},
	}
	if _, err := c.api.NetworkingV1().Ingresses(namespace).Create(ctx, object, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("making an Ingress: %w", err)
	}
	return nil
}

// ingress: a client outside that asks any node for the host is answered by a pod behind the
// Service, and for another host by none.
func (s *story) ingress(ctx context.Context, t *testing.T) {
	s.outside.needed(t)
	now := s.scene(ctx, t)
	testutil.Must(t, s.cluster.makeIngress(ctx))
	var questions, others []talk.Question
	for _, at := range now.nodes {
		for _, address := range at.addresses {
			target := netip.AddrPortFrom(address, ingressPort).String()
			questions = append(questions, talk.Question{Network: talk.HTTP, Target: target, Host: ingressHost})
			others = append(others, talk.Question{Network: talk.HTTP, Target: target, Host: "other.example.test"})
		}
	}
	await(ctx, t, "the Ingress", func(ctx context.Context) error {
		return s.outside.ask(ctx, questions, func(answer talk.Answer) error {
			if len(answer.From) == 1 && !now.has(groupA, answer.From[0].Pod) {
				return fmt.Errorf("pod %s answered", answer.From[0].Pod)
			}
			return nil
		})
	})
	err := s.outside.ask(ctx, others, func(talk.Answer) error { return nil })
	if err == nil {
		t.Error("a host that no Ingress names is answered, so this shows nothing")
	}
}
