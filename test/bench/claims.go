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
	if routes := bytes.Count(out.Bytes(), []byte(" via ")); err != nil || routes < l.opts.nodes-1 {
		return 0, 0, fmt.Errorf("running plan: %v; it has %d routes:\n%.2000s", err, routes, out.String())
	}
	usage, _ := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	return took, float64(usage.Maxrss) / 1024, nil
}
