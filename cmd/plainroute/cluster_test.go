package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// planOf runs plan against an API server with one answer to all requests.
func planOf(t *testing.T, code int, answer any) (stdout string, err error) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path != "/api/v1/nodes" || q.Method != http.MethodGet {
			t.Errorf("asked for %s %s", q.Method, q.URL)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(answer)
	}))
	defer server.Close()
	var out bytes.Buffer
	root := rootCommand()
	root.SetArgs([]string{"plan", "--kubeconfig", kubeconfigOf(t, server.URL)})
	root.SetOut(&out)
	err = root.ExecuteContext(context.Background())
	return out.String(), err
}

// kubeconfigOf writes a kubeconfig for a server without authentication.
func kubeconfigOf(t *testing.T, server string) string {
	t.Helper()
	config := clientcmdapi.NewConfig()
	config.Clusters["a"] = &clientcmdapi.Cluster{Server: server}
	config.Contexts["a"] = &clientcmdapi.Context{Cluster: "a"}
	config.CurrentContext = "a"
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		t.Fatal(err)
	}
	return file
}

// --as and --as-group impersonate a user.
func TestAsSomebodyElse(t *testing.T) {
	f := workstationFlags{}
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	f.register(fs)
	if err := fs.Parse([]string{"--kubeconfig", kubeconfigOf(t, "https://192.0.2.1"), "--as", "jane", "--as-group", "a", "--as-group", "b,c"}); err != nil {
		t.Fatal(err)
	}
	config, _, err := f.connect()
	if err != nil {
		t.Fatal(err)
	}
	if who := config.Impersonate; who.UserName != "jane" || !slices.Equal(who.Groups, []string{"a", "b,c"}) {
		t.Errorf("it is %+v", who)
	}
}

func TestPlanFromTheCluster(t *testing.T) {
	node := func(name, subnet, ip string) corev1.Node {
		return corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDR: subnet},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}}},
		}
	}
	list := corev1.NodeList{TypeMeta: metav1.TypeMeta{Kind: "NodeList", APIVersion: "v1"}, Items: []corev1.Node{
		node("node1", "10.244.1.0/24", "192.168.1.11"), node("node2", "10.244.2.0/24", "192.168.1.12"),
	}}
	out, err := planOf(t, http.StatusOK, list)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# Node node1\n", "# Node node2\n", "ip route add 10.244.2.0/24 via 192.168.1.12 dev eth0 proto 112 metric 2300\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
}

func TestPlanIsRefusedByTheCluster(t *testing.T) {
	refusal := apierrors.NewForbidden(corev1.Resource("nodes"), "", errors.New("no right")).ErrStatus
	refusal.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	out, err := planOf(t, http.StatusForbidden, refusal)
	if out != "" || err == nil || !strings.Contains(err.Error(), "listing Nodes: nodes is forbidden: no right") {
		t.Errorf("got %v and %q", err, out)
	}
	if errors.As(err, new(usageError)) {
		t.Error("a refusal is no wrong flag")
	}
}

// The error of a missing right names the rights, and that of an interruption is short.
func TestErrorsOfTheClusterLead(t *testing.T) {
	forbidden := apierrors.NewForbidden(appsv1.Resource("daemonsets"), "", errors.New("no right"))
	forbidden.ErrStatus.Details.Kind = "daemonsets"
	listing := fmt.Errorf("listing the agents' DaemonSets: %w", forbidden)
	viewer, doctor := clusterFlags{}, clusterFlags{rights: doctorRights}
	narrow := viewer
	narrow.namespace = "there"
	for _, c := range []struct {
		name  string
		flags clusterFlags
		err   error
		want  string
	}{
		{"a viewer", viewer, listing, listing.Error() + " (config/samples/viewer has the rights that the command needs; for agents outside kube-system and plainroute-system, give --namespace)"},
		{"a viewer of one namespace", narrow, listing, listing.Error() + " (config/samples/viewer has the rights that the command needs)"},
		{"a doctor", doctor, listing, listing.Error() + " (" + doctorRights + "; for agents outside kube-system and plainroute-system, give --namespace)"},
		{"Ctrl-C", doctor, fmt.Errorf("listing Nodes: %w", context.Canceled), "interrupted"},
	} {
		if got := c.flags.hinted(c.err); got.Error() != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
