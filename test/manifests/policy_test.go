package manifests

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/test/testutil"
)

// nodesOf is a client of an identity's.
func nodesOf(t *testing.T, config *rest.Config) kubernetes.Interface {
	t.Helper()
	client, err := kubernetes.NewForConfig(config)
	testutil.Must(t, err)
	return client
}

// enforce applies the policies and rights of a chart with these values, and waits until the API server denies by
// them: it takes a policy up with a delay. Everything is taken away with the test.
func enforce(t *testing.T, denied func(context.Context) error, values ...string) {
	t.Helper()
	ctx := testutil.Within(t, time.Minute)
	for _, o := range helm(t, append([]string{`clusterCIDR=["10.244.0.0/16"]`}, values...)...) {
		switch o.GetKind() {
		case "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "ClusterRole", "ClusterRoleBinding", "ServiceAccount":
		default:
			continue
		}
		if o.GetAnnotations()["helm.sh/hook"] != "" {
			continue
		}
		testutil.Must(t, server.apply(ctx, o))
		t.Cleanup(func() { remove(t, o) })
	}
	testutil.Must(t, testutil.Poll(ctx, 100*time.Millisecond, func() error {
		if err := denied(ctx); !forbidden(err) {
			return fmt.Errorf("the policy does not deny what it is there to deny: %w", err)
		}
		return nil
	}))
}

func remove(t *testing.T, o *unstructured.Unstructured) {
	resource, err := server.resource(o)
	testutil.Must(t, err)
	if err := resource.Delete(context.Background(), o.GetName(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		t.Error(err)
	}
}

// forbidden reports whether a policy of ours has refused.
func forbidden(err error) bool {
	return apierrors.IsForbidden(err) && strings.Contains(err.Error(), "ValidatingAdmissionPolicy 'plainroute-")
}

func newNode(name string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/hostname": name}}}
}

func claiming(name string, subnets ...string) *corev1.Node {
	node := newNode(name)
	node.Spec.PodCIDR, node.Spec.PodCIDRs = subnets[0], subnets
	return node
}

// attempt is a request that a policy must refuse.
type attempt struct {
	name string
	do   func(context.Context) error
}

func attack(ctx context.Context, t *testing.T, attempts []attempt) {
	t.Helper()
	for _, a := range attempts {
		if err := a.do(ctx); !forbidden(err) {
			t.Errorf("%s: %v; want it forbidden by a policy", a.name, err)
		}
	}
}

func allow(ctx context.Context, t *testing.T, attempts []attempt) {
	t.Helper()
	for _, a := range attempts {
		if err := a.do(ctx); err != nil {
			t.Errorf("%s: %v; want it allowed", a.name, err)
		}
	}
}

// agentOf makes a Node, and on it the Pod of an agent, whose bound token it returns as an identity.
func agentOf(ctx context.Context, t *testing.T, node string) kubernetes.Interface {
	t.Helper()
	object := newNode(node)
	object.Spec.Unschedulable = true
	object.Spec.Taints = []corev1.Taint{
		{Key: "plainroute/starting", Effect: corev1.TaintEffectNoSchedule}, {Key: "dedicated", Value: "db", Effect: corev1.TaintEffectNoExecute},
	}
	created, err := server.Client.CoreV1().Nodes().Create(ctx, object, metav1.CreateOptions{})
	testutil.Must(t, err)
	t.Cleanup(func() {
		testutil.Must(t, server.Client.CoreV1().Nodes().Delete(context.Background(), node, metav1.DeleteOptions{}))
	})
	created.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionFalse}}
	created.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.168.1.7"}}
	_, err = server.Client.CoreV1().Nodes().UpdateStatus(ctx, created, metav1.UpdateOptions{})
	testutil.Must(t, err)
	pods, immediately := server.Client.CoreV1().Pods(namespace), int64(0)
	pod, err := pods.Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "agent-on-" + node},
		Spec: corev1.PodSpec{NodeName: node, ServiceAccountName: "plainroute", Containers: []corev1.Container{
			{Name: "agent", Image: "localhost/plainroute:0.1.0"},
		}},
	}, metav1.CreateOptions{})
	testutil.Must(t, err)
	t.Cleanup(func() {
		testutil.Must(t, pods.Delete(context.Background(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &immediately}))
	})
	return clientOf(ctx, t, namespace, "plainroute", &authenticationv1.BoundObjectReference{
		Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID,
	})
}

// clientOf is a client with a token of a service account's, bound to an object or to none.
func clientOf(ctx context.Context, t *testing.T, namespace, account string, bound *authenticationv1.BoundObjectReference) kubernetes.Interface {
	t.Helper()
	token, err := server.Client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: bound}}, metav1.CreateOptions{})
	testutil.Must(t, err)
	config := rest.AnonymousClientConfig(server.Config)
	config.BearerToken = token.Status.Token
	config.QPS = -1
	return nodesOf(t, config)
}

// An agent that may patch the status of Nodes changes one condition of one Node.
func TestAgentChangesOneConditionOnly(t *testing.T) {
	needed(t)
	ctx := testutil.Within(t, 2*time.Minute)
	account(ctx, t, namespace, "plainroute")
	agent := agentOf(ctx, t, "own").CoreV1().Nodes()
	agentOf(ctx, t, "other")
	patch := func(node, content string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := agent.Patch(ctx, node, types.StrategicMergePatchType, []byte(content), metav1.PatchOptions{}, "status")
			return err
		}
	}
	const good = `{"status":{"conditions":[{"type":"NetworkUnavailable","status":"False","reason":"PlainrouteReady"}]}}`
	enforce(t, patch("other", good), "nodeCondition=true")
	allow(ctx, t, []attempt{
		{"set its condition", patch("own", good)},
		{"set it again", patch("own", strings.Replace(good, "PlainrouteReady", "Else", 1))},
	})
	tricks := map[string]string{
		"label its Node":              `{"metadata":{"labels":{"node-role.kubernetes.io/control-plane":""}}}`,
		"take a label away":           `{"metadata":{"labels":{"kubernetes.io/hostname":null}}}`,
		"annotate its Node":           `{"metadata":{"annotations":{"a":"b"}}}`,
		"keep its Node from going":    `{"metadata":{"finalizers":["a.example/b"]}}`,
		"give its Node an owner":      `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Namespace","name":"x","uid":"1"}]}}`,
		"claim capacity":              `{"status":{"capacity":{"example.com/gpu":"8"}}}`,
		"claim what is allocatable":   `{"status":{"allocatable":{"example.com/gpu":"8"}}}`,
		"claim an address":            `{"status":{"addresses":[{"type":"InternalIP","address":"192.168.1.1"}]}}`,
		"take addresses away":         `{"status":{"addresses":null}}`,
		"call the Node ready":         `{"status":{"conditions":[{"type":"Ready","status":"True"}]}}`,
		"take a condition away":       `{"status":{"conditions":[{"$patch":"delete","type":"Ready"}]}}`,
		"add a condition":             `{"status":{"conditions":[{"type":"DiskPressure","status":"True"}]}}`,
		"set another condition":       `{"status":{"conditions":[{"type":"NetworkUnavailable","status":"True"}]}}`,
		"set the images":              `{"status":{"images":[{"names":["evil:1"]}]}}`,
		"set the volumes":             `{"status":{"volumesInUse":["a"]}}`,
		"set the kubelet's port":      `{"status":{"daemonEndpoints":{"kubeletEndpoint":{"Port":1}}}}`,
		"set the machine id":          `{"status":{"nodeInfo":{"machineID":"x"}}}`,
		"its condition, and a label":  `{"metadata":{"labels":{"a":"b"}},` + good[1:],
		"its condition, and capacity": `{"status":{"capacity":{"example.com/gpu":"8"},` + good[len(`{"status":{`):],
	}
	var attempts []attempt
	for name, content := range tricks {
		attempts = append(attempts, attempt{name, patch("own", content)})
	}
	attack(ctx, t, append(attempts, attempt{"change another Node's condition", patch("other", good)}))
	agent = clientOf(ctx, t, namespace, "plainroute", nil).CoreV1().Nodes()
	attack(ctx, t, []attempt{{"do it with a token of no Pod", patch("own", good)}})
}

// An agent that may patch Nodes takes one taint off one Node.
func TestAgentTakesOneTaintOnly(t *testing.T) {
	needed(t)
	ctx := testutil.Within(t, 2*time.Minute)
	account(ctx, t, namespace, "plainroute")
	agent := agentOf(ctx, t, "own").CoreV1().Nodes()
	agentOf(ctx, t, "other")
	patch := func(node, content string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := agent.Patch(ctx, node, types.StrategicMergePatchType, []byte(content), metav1.PatchOptions{})
			return err
		}
	}
	// The API server has added one of its own, not-ready.
	const rest = `{"key":"dedicated","value":"db","effect":"NoExecute"},{"key":"node.kubernetes.io/not-ready","effect":"NoSchedule"}`
	const good = `{"spec":{"taints":[` + rest + `]}}`
	enforce(t, patch("other", good), `startupTaint="plainroute/starting"`)
	attacks := []attempt{
		{"take another Node's taint", patch("other", good)},
		{"take all taints", patch("own", `{"spec":{"taints":null}}`)},
		{"take another taint", patch("own", `{"spec":{"taints":[{"key":"plainroute/starting","effect":"NoSchedule"}]}}`)},
		{"add a taint", patch("own", `{"spec":{"taints":[`+rest+`,{"key":"evil","effect":"NoExecute"}]}}`)},
		{"uncordon", patch("own", `{"spec":{"unschedulable":null}}`)},
		{"claim a subnet", patch("own", `{"spec":{"podCIDR":"10.244.9.0/24","podCIDRs":["10.244.9.0/24"]}}`)},
		{"claim to be a cloud's", patch("own", `{"spec":{"providerID":"x://y"}}`)},
		{"label", patch("own", `{"metadata":{"labels":{"a":"b"}}}`)},
		{"take a label away", patch("own", `{"metadata":{"labels":null}}`)},
		{"annotate", patch("own", `{"metadata":{"annotations":{"a":"b"}}}`)},
		{"the taint, and a label", patch("own", `{"metadata":{"labels":{"a":"b"}},`+good[1:])},
	}
	attack(ctx, t, attacks)
	allow(ctx, t, []attempt{{"take its taint", patch("own", good)}})
	attack(ctx, t, attacks) // refused before because of the taint, now by itself
}

// Without the policy each attack succeeds: otherwise its refusal would prove nothing.
func TestAttacksWorkWithoutPolicy(t *testing.T) {
	needed(t)
	ctx := testutil.Within(t, time.Minute)
	account(ctx, t, namespace, "plainroute")
	agent := agentOf(ctx, t, "own").CoreV1().Nodes()
	for _, o := range helm(t, `clusterCIDR=["10.244.0.0/16"]`, "nodeCondition=true") {
		if strings.HasSuffix(o.GetName(), "node-condition") && strings.HasPrefix(o.GetKind(), "ClusterRole") {
			testutil.Must(t, server.apply(ctx, o))
			t.Cleanup(func() { remove(t, o) })
		}
	}
	var node *corev1.Node
	rightsTakeEffect(ctx, t, func() (err error) {
		node, err = agent.Patch(ctx, "own", types.StrategicMergePatchType,
			[]byte(`{"metadata":{"labels":{"evil":"yes"}},"status":{"capacity":{"example.com/gpu":"8"}}}`), metav1.PatchOptions{}, "status")
		return err
	})
	if node.Labels["evil"] != "yes" || len(node.Status.Capacity) == 0 {
		t.Errorf("a status patch set labels %v and capacity %v; want both set", node.Labels, node.Status.Capacity)
	}
}

// rightsTakeEffect repeats a request for as long as it is forbidden: RBAC takes new rights up with a delay.
func rightsTakeEffect(ctx context.Context, t *testing.T, request func() error) {
	t.Helper()
	var other error
	testutil.Must(t, testutil.Poll(ctx, 50*time.Millisecond, func() error {
		err := request()
		if apierrors.IsForbidden(err) {
			return err
		}
		other = err
		return nil
	}))
	testutil.Must(t, other)
}

func account(ctx context.Context, t *testing.T, namespace, name string) {
	t.Helper()
	accounts := server.Client.CoreV1().ServiceAccounts(namespace)
	_, err := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}
