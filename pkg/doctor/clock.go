package doctor

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/kube"
	"github.com/plainroute/plainroute/pkg/problem"
)

// Differences between clocks that are reported. Leader election with leases of seconds fails from a
// few seconds on, and tokens and certificates are refused from a minute on.
const (
	minSkew = 2 * time.Second
	maxSkew = time.Minute
)

const clockRemedy = "run an NTP client on each node (systemd-timesyncd, chrony), and check its synchronization: timedatectl, chronyc tracking"

// clocks compares this node's clock and each kubelet's clock with the API server's.
func clocks(ctx context.Context, t *Target) []problem.Problem {
	return append(t.ownClock(ctx), kubeletClocks(t.Nodes, t.nodeLeases(ctx))...)
}

// ownClock reads the API server's clock from the header Date of a response with any status (RFC
// 9110, section 6.6.1). It has whole seconds.
func (t *Target) ownClock(ctx context.Context) []problem.Problem {
	if t.API == nil {
		return Skip("the API server is not known: "+errorText(t.NodesErr), giveKubeconfig)
	}
	ahead, uncertainty, err := clockOf(ctx, t.API)
	if invalid := (x509.CertificateInvalidError{}); errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return Fail("by this node's clock, the API server's certificate has expired or is not valid yet", fmt.Sprintf("%s; here it is %s", invalid, time.Now().UTC().Format(time.RFC3339)),
			clockRemedy+"; if the clock is right, renew the certificate: kubeadm certs renew all")
	}
	if err != nil {
		return Skip("the API server's time is unknown: "+err.Error(), "")
	}
	report := Warn
	switch off := ahead.Abs() - uncertainty; {
	case off < minSkew:
		return nil
	case off >= maxSkew:
		report = Fail
	}
	return report(fmt.Sprintf("this node's clock is %s the API server's", skew(ahead)),
		fmt.Sprintf("the header Date of its response differs by %s, with an uncertainty of %s", ahead.Round(time.Second/10), uncertainty.Round(time.Second/10)), clockRemedy)
}

// skew formats the difference between two clocks.
func skew(ahead time.Duration) string {
	side := "ahead of"
	if ahead < 0 {
		side = "behind"
	}
	return fmt.Sprintf("%s %s", ahead.Abs().Round(time.Second), side)
}

// clockOf returns by how much this host's clock is ahead of the server's, and the error bound.
func clockOf(ctx context.Context, config *rest.Config) (ahead, uncertainty time.Duration, err error) {
	base, _, err := rest.DefaultServerUrlFor(config)
	client, clientErr := rest.HTTPClientFor(config)
	if err := errors.Join(err, clientErr); err != nil {
		return 0, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base.JoinPath("version").String(), http.NoBody)
	if err != nil {
		return 0, 0, err
	}
	begin := time.Now()
	response, err := client.Do(request)
	if err != nil {
		return 0, 0, err
	}
	defer response.Body.Close()
	took := time.Since(begin)
	date, err := http.ParseTime(response.Header.Get("Date"))
	if err != nil {
		return 0, 0, fmt.Errorf("reading its Date: %w", err)
	}
	const half = time.Second / 2
	return begin.Add(took / 2).Sub(date.Add(half)), half + took/2, nil
}

// A heartbeat is a time by a kubelet's clock, and the API server's time of its write.
type heartbeat struct {
	node             string
	written, arrived time.Time
	old              bool // it may have been written minutes before it arrived
}

// maxHeartbeatAge is more than the 5 minutes (nodeStatusReportFrequency) between two heartbeats, of
// which a kubelet's other writes to the status repeat the last one.
const maxHeartbeatAge = 6 * time.Minute

// kubeletClocks judges clocks by heartbeats: the API server records, by its own clock, when a
// kubelet changed its Node or Lease (metadata.managedFields).
func kubeletClocks(nodes []corev1.Node, leases []heartbeat) []problem.Problem {
	heartbeats := leases
	if heartbeats == nil {
		heartbeats = nodeHeartbeats(nodes)
	}
	var skewed group
	severity := problem.Warning
	for _, b := range heartbeats {
		const uncertainty = 2 * time.Second // both are in whole seconds, and one was on its way
		ahead := b.written.Sub(b.arrived)
		if ahead < 0 && b.old && -ahead < maxHeartbeatAge || ahead.Abs() < minSkew+uncertainty {
			continue
		}
		if ahead.Abs() >= maxSkew {
			severity = problem.Error
		}
		skewed.add(b.node, "%s wrote %s when the API server had %s, %s it", b.node, b.written.UTC().Format(time.TimeOnly), b.arrived.UTC().Format(time.TimeOnly), skew(ahead))
	}
	return skewed.problems(severity, "nodes' clocks differ from the API server's: ", clockRemedy)
}

func nodeHeartbeats(nodes []corev1.Node) []heartbeat {
	var heartbeats []heartbeat
	for i := range nodes {
		arrived, ok := changed(nodes[i].ManagedFields, "status")
		if !ok {
			continue
		}
		var written time.Time
		for _, c := range nodes[i].Status.Conditions {
			if c.Type != corev1.NodeNetworkUnavailable && c.LastHeartbeatTime.After(written) {
				written = c.LastHeartbeatTime.Time
			}
		}
		if !written.IsZero() {
			heartbeats = append(heartbeats, heartbeat{nodes[i].Name, written, arrived, true})
		}
	}
	return heartbeats
}

// changed returns when a kubelet last changed an object.
func changed(fields []metav1.ManagedFieldsEntry, subresource string) (time.Time, bool) {
	for _, f := range fields {
		if f.Manager == "kubelet" && f.Subresource == subresource && f.Time != nil {
			return f.Time.Time, true
		}
	}
	return time.Time{}, false
}

// nodeLeases returns the heartbeats in Leases, which kubelets renew every 10 s. The agent has no
// right to list Leases; with an operator's kubeconfig the result is more precise than by Nodes.
func (t *Target) nodeLeases(ctx context.Context) []heartbeat {
	if t.API == nil {
		return nil
	}
	client, err := kube.New(t.API)
	if err != nil {
		return nil
	}
	list, err := client.Leases(corev1.NamespaceNodeLease).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil
	}
	var heartbeats []heartbeat
	for i := range list.Items {
		arrived, ok := changed(list.Items[i].ManagedFields, "")
		if renewed := list.Items[i].Spec.RenewTime; ok && renewed != nil {
			heartbeats = append(heartbeats, heartbeat{list.Items[i].Name, renewed.Time, arrived, false})
		}
	}
	return heartbeats
}
