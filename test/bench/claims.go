package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/pkg/topology"
)

// measurePlan measures plainroute plan for our own Node, from a file of all Nodes.
func measurePlan(ctx context.Context, l *lab, r *report) error {
	list := corev1.NodeList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "NodeList"}}
	for index := range l.opts.nodes {
		list.Items = append(list.Items, *l.node(index))
	}
	content, err := json.Marshal(&list)
	if err != nil {
		return fmt.Errorf("rendering the Nodes: %w", err)
	}
	path := filepath.Join(l.opts.Dir, "nodes.json")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return fmt.Errorf("writing the Nodes: %w", err)
	}
	var took []time.Duration
	var memory []float64
	for range l.opts.starts {
		once, mib, err := l.planOnce(ctx, path)
		if err != nil {
			return err
		}
		took, memory = append(took, once), append(memory, mib)
	}
	r.add("plan for one Node, median", seconds(median(took)), "s", 6)
	r.add("peak resident memory of plan, worst", worst(memory), "MiB", 400)
	return nil
}

// planOnce returns what plan takes, and its peak resident memory in MiB.
func (l *lab) planOnce(ctx context.Context, path string) (time.Duration, float64, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, l.opts.Agent, "plan", "--filename", path, "--node", nodeName(ownIndex), "--cluster-cidr", l.podRanges())
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	err := cmd.Run()
	took := time.Since(start)
	if err != nil {
		return 0, 0, fmt.Errorf("running plan: %w\n%.2000s", err, out.String())
	}
	if routes := bytes.Count(out.Bytes(), []byte(" via ")); routes < l.opts.nodes-1 {
		return 0, 0, fmt.Errorf("plan has %d routes:\n%.2000s", routes, out.String())
	}
	usage, _ := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	return took, float64(usage.Maxrss) / 1024, nil
}

// measureBatch has ip -batch add the same routes on a new machine, as a yardstick: with the next hop in each route, as the
// agent has it, or as others do, and with a nexthop object for each (ip-nexthop(8)), which the kernel finds without a search.
func measureBatch(ctx context.Context, l *lab, r *report) error {
	if err := l.agent.stop(ctx); err != nil {
		return err
	}
	for _, how := range []struct{ name, objects, route string }{
		{"with the agent's metrics", "", "route add %[1]s via %[2]s dev eth0 proto 112 metric %[4]d\n"},
		{"with one metric", "", "route add %[1]s via %[2]s dev eth0 proto 112 metric 2048\n"},
		{"with nexthop objects", "nexthop add id %[3]d via %[2]s dev eth0 proto 112\n", "route add %[1]s nhid %[3]d proto 112 metric 2048\n"},
	} {
		if err := l.freshMachine(); err != nil {
			return err
		}
		took, err := l.batchOnce(ctx, how.objects, how.route)
		if err != nil {
			return fmt.Errorf("adding routes %s: %w", how.name, err)
		}
		r.add("ip -batch, as many routes "+how.name+" (a yardstick)", seconds(took), "s", 0)
	}
	return nil
}

// batchOnce runs ip -batch with a line of each format for each peer.
func (l *lab) batchOnce(ctx context.Context, formats ...string) (time.Duration, error) {
	var lines bytes.Buffer
	for _, format := range formats {
		for index := 1; index < l.opts.nodes && format != ""; index++ {
			subnet := l.subnets(index)[0]
			fmt.Fprintf(&lines, format, subnet, address4(index), index, topology.PeerMetric(subnet))
		}
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, "ip", "-batch", "-")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &lines, &out, &out
	start := time.Now()
	err := l.machine.Do(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return 0, fmt.Errorf("running ip -batch: %w\n%.2000s", err, out.String())
	}
	return time.Since(start), nil
}
