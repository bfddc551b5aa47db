package controllers

import (
	"context"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/test/apiserver"
	"github.com/plainroute/plainroute/test/testutil"
)

// ServiceCIDRs take the place of --service-cidr, and a later one applies to Nodes that are there. Before
// the right is granted, the option holds.
func TestServiceCIDRs(t *testing.T) {
	api := useNodes(t)
	api.Add(node1(), peer(2), peer(3), apiserver.NewNode("services", "10.96.7.0/24", "192.168.1.19"))
	a := startAgent(t, agentOptions{config: api.TestUser(t), ranges: true})
	a.eventually(a.hasRoutes(peerRoute(2), peerRoute(3)))
	a.eventually(func() error { return a.hasDetail(problem.ServicesUnread, "forbidden", "those of --service-cidr") })
	a.eventually(a.ready)
	a.eventually(func() error { return a.hasProblem("services", problem.PodCIDRRefused) })

	api.Allow(t, rbacv1.PolicyRule{APIGroups: []string{"networking.k8s.io"}, Resources: []string{"servicecidrs"}, Verbs: []string{"list", "watch"}})
	free := "10.96.7.0/24 via 192.168.1.19"
	a.eventually(a.hasRoutes(free, peerRoute(2), peerRoute(3)))
	a.eventually(a.noProblems)

	client, options := api.Admin.NetworkingV1().ServiceCIDRs(), metav1.DeleteOptions{}
	second := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "second"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.244.3.0/25"}}}
	_, err := client.Create(t.Context(), second, metav1.CreateOptions{})
	testutil.Must(t, err)
	t.Cleanup(func() { _ = client.Delete(context.Background(), "second", options) })
	a.eventually(a.hasRoutes(free, peerRoute(2)))
	a.eventually(func() error { return a.hasProblem("node3", problem.PodCIDRRefused) })
	testutil.Must(t, client.Delete(t.Context(), "second", options))
	a.eventually(a.hasRoutes(free, peerRoute(2), peerRoute(3)))
}
