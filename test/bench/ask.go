package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"github.com/plainroute/plainroute/test/testutil"
)

// betweenQuestions is longer than the agent reuses a report.
const betweenQuestions = 1200 * time.Millisecond

// measureStatus runs plainroute status as an operator does: the agent reads the kernel again each
// time, and every peer is printed.
func measureStatus(ctx context.Context, l *lab, r *report) error {
	before, err := l.agent.cpu()
	if err != nil {
		return err
	}
	var took []time.Duration
	var asking time.Duration // of CPU
	for range min(l.opts.samples, 10) {
		if err := testutil.Pause(ctx, betweenQuestions); err != nil {
			return err
		}
		var out bytes.Buffer
		cmd := exec.CommandContext(ctx, l.opts.Agent, "status")
		cmd.Stdout, cmd.Stderr = &out, &out
		start := time.Now()
		err := l.machine.Do(cmd.Start)
		if err == nil {
			err = cmd.Wait()
		}
		took = append(took, time.Since(start))
		asking += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			return fmt.Errorf("running status: %w", err)
		}
		if lines := bytes.Count(out.Bytes(), []byte("\n")); lines < l.opts.nodes {
			return fmt.Errorf("status among %d Nodes has %d lines:\n%.2000s", l.opts.nodes, lines, out.String())
		}
	}
	after, err := l.agent.cpu()
	if err != nil {
		return err
	}
	r.add("CPU for plainroute status, the command's", milliseconds(asking/time.Duration(len(took))), "ms", 0)
	r.add("CPU for plainroute status, the agent's", milliseconds((after-before)/time.Duration(len(took))), "ms", 0)
	r.add("plainroute status, median", milliseconds(median(took)), "ms", 100)
	r.add("plainroute status, worst", milliseconds(worst(took)), "ms", 0)
	mib, err := l.agent.peakMemory()
	if err != nil {
		return err
	}
	r.add("peak resident memory after that", mib, "MiB", 50)
	return nil
}
