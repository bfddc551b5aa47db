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
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/plainroute/plainroute/pkg/problem"
)

// How far clocks may be apart. Leases of seconds stand where they are told apart by
// less, tokens and certificates are refused from a minute on.
const (
	noticeable = 2 * time.Second
	harmful    = time.Minute
)

const setClock = "run an NTP client on each node (systemd-timesyncd, chrony), and look whether it is in step: timedatectl, chronyc tracking"

// clocks compares this node's with the API server's, and each kubelet's too.
func clocks(ctx context.Context, p *Patient) []problem.Problem {
	found := p.ownClock(ctx)
	return append(found, kubeletClocks(p.Nodes, p.leases(ctx))...)
}

// ownClock reads the API server's from the header Date of an answer, whatever the
// answer is (RFC 9110, 6.6.1). It has whole seconds.
func (p *Patient) ownClock(ctx context.Context) []problem.Problem {
	if p.API == nil {
		return Skip("the API server is not known: "+errorText(p.NodesErr), "run it in the agent's pod, or give --kubeconfig FILE")
	}
	ahead, doubt, err := clockOf(ctx, p.API)
	if invalid := (x509.CertificateInvalidError{}); errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return []problem.Problem{Fail("by this node's clock, the API server's certificate has expired or is not valid yet", fmt.Sprintf("%s; here it is %s", invalid, time.Now().UTC().Format(time.RFC3339)),
			setClock+"; if the clock is right, renew the certificate: kubeadm certs renew all")}
	}
	if err != nil {
		return Skip("the API server does not tell its time: "+err.Error(), "")
	}
	off := ahead.Abs() - doubt
	if off < noticeable {
		return nil
	}
	return []problem.Problem{{
		Severity: skewVerdict(off), Message: fmt.Sprintf("this node's clock is %s the API server's", skew(ahead)),
		Evidence: fmt.Sprintf("its answer bears a Date that is off by %s, give or take %s", ahead.Round(time.Second/10), doubt.Round(time.Second/10)), Remediation: setClock,
	}}
}

func skewVerdict(off time.Duration) problem.Severity {
	if off >= harmful {
		return problem.Error
	}
	return problem.Warning
}

// skew says in words how much a clock is ahead.
func skew(ahead time.Duration) string {
	side := "ahead of"
	if ahead < 0 {
		side = "behind"
	}
	return fmt.Sprintf("%s %s", ahead.Abs().Round(time.Second), side)
}

// clockOf tells by how much this host's clock is ahead of the server's, and how sure
// that is.
func clockOf(ctx context.Context, config *rest.Config) (ahead, doubt time.Duration, err error) {
	base, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return 0, 0, err
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
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

// beat is a time that a kubelet wrote by its own clock, and when that arrived by the
// API server's.
type beat struct {
	node             string
	written, arrived time.Time
	// old tells that what arrived may have been written minutes before.
	old bool
}

// late is how old a heartbeat can be that is right: a kubelet that has nothing new to
// say sends it each 5 minutes (nodeStatusReportFrequency), and what else it writes into
// the status bears the last one.
const late = 6 * time.Minute

// kubeletClocks judges by heartbeats: the API server notes, by its own clock, when a
// kubelet changed the Node or its Lease (metadata.managedFields).
func kubeletClocks(nodes []corev1.Node, leases []beat) []problem.Problem {
	beats := leases
	if beats == nil {
		beats = heartbeats(nodes)
	}
	var names, shown []string
	verdict := problem.Warning
	for _, b := range beats {
		const doubt = 2 * time.Second // both are in whole seconds, and one was on its way
		ahead := b.written.Sub(b.arrived)
		if ahead < 0 && b.old && -ahead < late || ahead.Abs() < noticeable+doubt {
			continue
		}
		if skewVerdict(ahead.Abs()) == problem.Error {
			verdict = problem.Error
		}
		names = append(names, b.node)
		shown = append(shown, fmt.Sprintf("%s wrote %s when the API server had %s, %s it", b.node, b.written.UTC().Format(time.TimeOnly), b.arrived.UTC().Format(time.TimeOnly), skew(ahead)))
	}
	if len(names) == 0 {
		return nil
	}
	return []problem.Problem{{Severity: verdict, Message: "nodes have clocks that differ from the API server's: " + named(names), Evidence: first(shown), Remediation: setClock}}
}

func heartbeats(nodes []corev1.Node) []beat {
	var beats []beat
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
			beats = append(beats, beat{nodes[i].Name, written, arrived, true})
		}
	}
	return beats
}

// changed tells when a kubelet last changed an object.
func changed(fields []metav1.ManagedFieldsEntry, subresource string) (time.Time, bool) {
	for _, f := range fields {
		if f.Manager == "kubelet" && f.Subresource == subresource && f.Time != nil {
			return f.Time.Time, true
		}
	}
	return time.Time{}, false
}

// leases are renewed each 10 s and bear nothing else. The agent has no right to see
// them; whoever has gets a sharper picture.
func (p *Patient) leases(ctx context.Context) []beat {
	if p.API == nil {
		return nil
	}
	client, err := kubernetes.NewForConfig(p.API)
	if err != nil {
		return nil
	}
	list, err := client.CoordinationV1().Leases(corev1.NamespaceNodeLease).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil
	}
	var beats []beat
	for i := range list.Items {
		arrived, ok := changed(list.Items[i].ManagedFields, "")
		if renewed := list.Items[i].Spec.RenewTime; ok && renewed != nil {
			beats = append(beats, beat{list.Items[i].Name, renewed.Time, arrived, false})
		}
	}
	return beats
}
