package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

// wide returns the Result of an agent with many peers.
func wide(peers int) *status.Result {
	r := &status.Result{Version: "v1", Node: "node0", Ready: true, Known: true, Seen: true, History: &status.History{}, Pass: status.Pass{Number: 1, Time: time.Now()}}
	masquerade := &topology.Masquerade{Bridge: topology.Bridge}
	for i := range peers + 1 {
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(64 + i>>8), byte(i), 0}), 24)
		via := netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)})
		r.Nodes = append(r.Nodes, &topology.Node{Name: fmt.Sprintf("node%d", i), PodCIDRs: []netip.Prefix{subnet}, Addrs: []netip.Addr{via}})
		if i == 0 {
			continue
		}
		r.Desired.Routes = append(r.Desired.Routes, &topology.Route{Dst: subnet, Via: via, Dev: "eth0", Protocol: topology.Protocol, Metric: topology.PeerMetric(subnet)})
		masquerade.Nodes = append(masquerade.Nodes, via)
	}
	r.Desired.Masquerade = masquerade
	return r
}

// answering serves a Result as an agent does, and returns its address.
func answering(t testing.TB, r *status.Result) string {
	t.Helper()
	s := &status.Server{
		Latest: &status.Latest{}, Healthy: func() error { return nil }, Metrics: prometheus.NewRegistry(), Status: true,
		API:     func() status.API { return status.API{Synced: true, LastEvent: time.Now()} },
		Observe: func() (topology.State, error) { return r.Desired, nil },
	}
	s.Latest.Publish(r)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := s.HTTP()
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// BenchmarkStatus runs the command against an agent with 5,000 peers that must render its report.
func BenchmarkStatus(b *testing.B) {
	bin := os.Getenv("PLAINROUTE_BIN")
	if bin == "" {
		b.Skip("PLAINROUTE_BIN is not set")
	}
	r := wide(5000)
	busy := time.Duration(0)
	for b.Loop() {
		b.StopTimer()
		addr := answering(b, r)
		b.StartTimer()
		cmd := exec.Command(bin, "status", "--listen", addr)
		out, err := cmd.Output()
		if err != nil || strings.Count(string(out), "\n") < 5000 {
			b.Fatal(err, len(out))
		}
		busy += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	b.ReportMetric(busy.Seconds()*1000/float64(b.N), "cpu-ms/op") // of the command alone, whatever else runs
}
