package manifests

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	typedv1 "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/plainroute/plainroute/test/testutil"
)

const (
	claimer = "claimer"
	claim   = `{"spec":{"podCIDR":"10.244.9.0/24","podCIDRs":["10.244.9.0/24"]}}`
)

// kubelet is a client with the rights of claimer's kubelet.
type kubelet struct{ typedv1.NodeInterface }

func newKubelet(t *testing.T) kubelet {
	t.Helper()
	user, err := server.User("system:node:"+claimer, "system:nodes")
	testutil.Must(t, err)
	return kubelet{nodesOf(t, user.Config()).CoreV1().Nodes()}
}

func (k kubelet) create(ctx context.Context, node *corev1.Node) error {
	_, err := k.Create(ctx, node, metav1.CreateOptions{})
	return err
}

func (k kubelet) patch(kind types.PatchType, content string, subresources ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := k.Patch(ctx, claimer, kind, []byte(content), metav1.PatchOptions{FieldManager: "kubelet"}, subresources...)
		return err
	}
}

// claims are all ways to claim a subnet for a Node that has none.
func (k kubelet) claims() []attempt {
	return []attempt{
		{"set", k.patch(types.StrategicMergePatchType, claim)},
		{"set by a JSON patch", k.patch(types.JSONPatchType, `[{"op":"add","path":"/spec/podCIDRs","value":["10.244.9.0/24"]}]`)},
		{"apply", k.patch(types.ApplyPatchType, `{"apiVersion":"v1","kind":"Node",`+claim[1:])},
		{"set along with labels", k.patch(types.StrategicMergePatchType, `{"metadata":{"labels":{"kubernetes.io/arch":"amd64"}},`+claim[1:])},
		{"update", func(ctx context.Context) error {
			node, err := k.Get(ctx, claimer, metav1.GetOptions{})
			if err != nil {
				return err
			}
			node.Spec.PodCIDR, node.Spec.PodCIDRs = "10.244.9.0/24", []string{"10.244.9.0/24"}
			_, err = k.Update(ctx, node, metav1.UpdateOptions{})
			return err
		}},
	}
}

// A kubelet registers and describes its Node, and can't claim a subnet at any time; a controller
// that allocates subnets still can.
func TestKubeletClaimsNoSubnet(t *testing.T) {
	needed(t)
	ctx := testutil.Within(t, time.Minute)
	kubelet, admin := newKubelet(t), server.Client.CoreV1().Nodes()
	t.Cleanup(func() { _ = admin.Delete(context.Background(), claimer, metav1.DeleteOptions{}) })
	create := func(ctx context.Context) error { return kubelet.create(ctx, claiming(claimer, "10.244.9.0/24")) }
	testutil.Must(t, create(ctx)) // the point of the test
	testutil.Must(t, admin.Delete(ctx, claimer, metav1.DeleteOptions{}))

	enforce(t, func(ctx context.Context) error {
		if err := create(ctx); err != nil {
			return err
		}
		return admin.Delete(ctx, claimer, metav1.DeleteOptions{})
	})
	attack(ctx, t, []attempt{
		{"create with a subnet", create},
		{"create with the field of one subnet alone", func(ctx context.Context) error {
			node := newNode(claimer)
			node.Spec.PodCIDR = "10.244.9.0/24"
			return kubelet.create(ctx, node)
		}},
	})
	testutil.Must(t, kubelet.create(ctx, newNode(claimer)))
	attack(ctx, t, kubelet.claims())
	allow(ctx, t, []attempt{
		{"label itself", kubelet.patch(types.StrategicMergePatchType, `{"metadata":{"labels":{"kubernetes.io/arch":"amd64"}}}`)},
		{"update its status", kubelet.patch(types.StrategicMergePatchType,
			`{"status":{"addresses":[{"type":"InternalIP","address":"192.168.1.9"}]}}`, "status")},
		{"be given a subnet", subnetGiver(ctx, t)},
		{"label itself once it has a subnet", kubelet.patch(types.StrategicMergePatchType, `{"metadata":{"labels":{"kubernetes.io/os":"linux"}}}`)},
	})
}

// subnetGiver does as the part of the controller-manager that hands out subnets, with the rights
// that the API server gives it.
func subnetGiver(ctx context.Context, t *testing.T) func(context.Context) error {
	t.Helper()
	account(ctx, t, metav1.NamespaceSystem, "node-controller")
	nodes := clientOf(ctx, t, metav1.NamespaceSystem, "node-controller", nil).CoreV1().Nodes()
	return func(ctx context.Context) error {
		_, err := nodes.Patch(ctx, claimer, types.StrategicMergePatchType, []byte(claim), metav1.PatchOptions{})
		return err
	}
}
