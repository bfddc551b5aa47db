// Command testsum runs go test and says at the end how many tests passed, failed and were skipped, and why each of the
// last was. While it runs it prints a line for each package, and for whatever keeps one waiting.
//
//	testsum -race ./...
//
// runs go test -json -race ./... and exits as that did. Its last line reads "N passed, N failed, N skipped".
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
)

// patience is how long nothing may be printed while tests run.
const patience = 10 * time.Second

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// run returns the exit code of go test, or 1 if no test ran or one failed.
func run(args []string) (int, error) {
	// Interrupted, go test ends its tests, and what has run until then is summed up.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	output, err := cmd.StdoutPipe()
	if err != nil {
		return 1, fmt.Errorf("making a pipe to go test: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("starting go test: %w", err)
	}
	sum := newSummary(os.Stdout, time.Now)
	follow(output, sum)
	code, err := exitCode(cmd.Wait())
	return max(code, sum.finish()), err
}

func exitCode(err error) (int, error) {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1), nil
	default:
		return 1, fmt.Errorf("waiting for go test: %w", err)
	}
}

// follow hands every event to sum, and reminds it of the time when there is none.
func follow(output io.Reader, sum *summary) {
	lines := make(chan []byte)
	go func() {
		defer close(lines)
		reader := bufio.NewReader(output)
		for {
			line, err := reader.ReadBytes('\n')
			if len(line) > 0 {
				lines <- line
			}
			if err != nil {
				return
			}
		}
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				return
			}
			var e event
			if err := json.Unmarshal(line, &e); err != nil {
				sum.print(string(line))
				continue
			}
			sum.add(e)
		case <-tick.C:
			sum.remind()
		}
	}
}
