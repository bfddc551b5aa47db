package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// costs are the figures of one run.
type costs struct {
	Date    string     `json:"date"`
	Machine string     `json:"machine"`
	Sizes   []sizeCost `json:"sizes"`
}

// sizeCost is a report of the benchmark (test/bench/report.go), as far as it is drawn.
type sizeCost struct {
	Nodes   int     `json:"nodes"`
	Load    float64 `json:"load"` // of the machine in the minute before
	Results []struct {
		Name  string  `json:"name"`
		Value float64 `json:"value"`
		Unit  string  `json:"unit"`
	} `json:"results"`
}

func (s sizeCost) value(name string) (float64, error) {
	for _, r := range s.Results {
		if r.Name == name {
			return r.Value, nil
		}
	}
	return 0, fmt.Errorf("no figure %q among %d Nodes", name, s.Nodes)
}

// settle is when the peak memory is read again; a figure's name contains it.
const settle = "5s"

func measure(ctx context.Context, o options) (costs, error) {
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return costs{}, fmt.Errorf("reading the kernel's release: %w", err)
	}
	version, _, _ := strings.Cut(strings.TrimSpace(string(kernel)), "-")
	c := costs{Date: time.Now().UTC().Format(time.DateOnly), Machine: fmt.Sprintf("%d cores, Linux %s", runtime.NumCPU(), version)}
	for i, nodes := range o.sizes {
		fmt.Fprintf(os.Stderr, "%s %d Nodes, size %d of %d\n", time.Now().Format(time.TimeOnly), nodes, i+1, len(o.sizes))
		size, err := o.measureSize(ctx, nodes)
		if err != nil {
			return c, err
		}
		c.Sizes = append(c.Sizes, size)
	}
	return c, nil
}

func (o options) measureSize(ctx context.Context, nodes int) (sizeCost, error) {
	content, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return sizeCost{}, fmt.Errorf("reading the load: %w", err)
	}
	text, _, _ := strings.Cut(string(content), " ")
	load, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return sizeCost{}, fmt.Errorf("reading the load: %w", err)
	}
	cmd := exec.CommandContext(ctx, o.bench, "-nodes", strconv.Itoa(nodes), "-only", "new,delete", "-starts", "3", "-samples", "30",
		"-settle", settle, "-limit", "10m", "-o", "json")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it takes down what it made
	if err := cmd.Run(); err != nil {
		return sizeCost{}, fmt.Errorf("running %s among %d Nodes: %w", o.bench, nodes, errors.Join(err, ctx.Err()))
	}
	size := sizeCost{}
	if err := json.Unmarshal(out.Bytes(), &size); err != nil {
		return sizeCost{}, fmt.Errorf("reading the output of %s: %w", o.bench, err)
	}
	size.Load = load
	return size, nil
}
