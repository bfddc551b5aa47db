package servicecidr_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/servicecidr"
	"github.com/plainroute/plainroute/test/apiserver"
	"github.com/plainroute/plainroute/test/testutil"
)

func TestMain(m *testing.M) { os.Exit(apiserver.Run(m)) }

// pods is the range of --cluster-cidr.
var pods = netip.MustParsePrefix("10.244.0.0/16")

// watched is a running Source.
func watched(t *testing.T, config *rest.Config) *servicecidr.Source {
	t.Helper()
	source, err := servicecidr.New(config, []netip.Prefix{pods})
	testutil.Must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		source.Run(ctx, func() {})
		close(ended)
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return source
}

// becomes waits until a Source has ranges, and one Problem with words, or none without them.
func becomes(t *testing.T, source *servicecidr.Source, ranges string, words ...string) {
	t.Helper()
	testutil.Await(t, func() error {
		got, problems := source.Ranges()
		if fmt.Sprint(got) != ranges {
			return fmt.Errorf("the ranges are %v, want %s; %v", got, ranges, problems)
		}
		if len(words) == 0 && len(problems) == 0 {
			return nil
		}
		if len(problems) != 1 || slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(problems[0].Message, w) }) || problems[0].BlocksReady {
			return fmt.Errorf("the problems are %+v, want one with %q", problems, words)
		}
		return nil
	})
}

// add adds a ServiceCIDR, which the test removes again unless that was done before.
func add(t *testing.T, server *apiserver.Server, name string, cidrs ...string) (remove func()) {
	t.Helper()
	client := server.Admin.NetworkingV1().ServiceCIDRs()
	object := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs}}
	_, err := client.Create(t.Context(), object, metav1.CreateOptions{})
	testutil.Must(t, err)
	t.Cleanup(func() { _ = client.Delete(context.Background(), name, metav1.DeleteOptions{}) })
	return func() { testutil.Must(t, client.Delete(t.Context(), name, metav1.DeleteOptions{})) }
}

// The ranges follow the API server's: its own one, others that come and go, and one around the pods' that is left out.
func TestRangesFollow(t *testing.T) {
	server := apiserver.Start(t)
	source := watched(t, server.TestUser(t))
	becomes(t, source, "[]", "forbidden", "servicecidrs", "those of --service-cidr")
	if got, _ := source.Ranges(); got != nil {
		t.Errorf("without the right the ranges are known: %v", got)
	}
	server.Allow(t, rbacv1.PolicyRule{APIGroups: []string{"networking.k8s.io"}, Resources: []string{"servicecidrs"}, Verbs: []string{"list", "watch"}})
	becomes(t, source, "[10.0.0.0/24]")
	remove := add(t, server, "second", "10.97.0.0/16", "fd00:10:97::/112")
	becomes(t, source, "[10.0.0.0/24 10.97.0.0/16 fd00:10:97::/112]")
	around := add(t, server, "around", "10.240.0.0/12")
	becomes(t, source, "[10.0.0.0/24 10.97.0.0/16 fd00:10:97::/112]", "ServiceCIDR around", "10.240.0.0/12", "--cluster-cidr")
	around()
	becomes(t, source, "[10.0.0.0/24 10.97.0.0/16 fd00:10:97::/112]")
	inside := add(t, server, "inside", "10.244.7.0/24")
	becomes(t, source, "[10.0.0.0/24 10.97.0.0/16 10.244.7.0/24 fd00:10:97::/112]")
	inside()
	remove()
	becomes(t, source, "[10.0.0.0/24]")
}
