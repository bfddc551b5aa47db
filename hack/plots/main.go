// Command plots measures the agent in clusters of several sizes and draws the costs: one SVG for each kind of cost, with the
// number of Nodes as the x-axis. It keeps the figures in a file beside the pictures.
//
//	plots                    measures and draws
//	plots -draw              draws the figures of the file again
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

const usage = `plots measures the agent in clusters of several sizes, and draws SVG plots of the costs.

Usage:
  plots [flags]

Flags:
`

type options struct {
	bench  string
	sizes  []int
	folder string
	draw   bool
}

func main() { os.Exit(run(os.Args[1:])) }

// run returns the exit code.
func run(args []string) int {
	opts, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(os.Stderr, "plots:", err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command(ctx, opts); err != nil {
		fmt.Fprintln(os.Stderr, "plots:", err)
		return 1
	}
	return 0
}

func parse(args []string) (options, error) {
	var o options
	var sizes string
	flags := flag.NewFlagSet("plots", flag.ContinueOnError)
	flags.StringVar(&o.bench, "bench", "bin/bench", "the benchmark, test/bench")
	flags.StringVar(&sizes, "sizes", "100,500,1000,5000,10000,20000", "numbers of Nodes")
	flags.StringVar(&o.folder, "folder", "docs/pictures", "folder of the pictures and of the figures, costs.json")
	flags.BoolVar(&o.draw, "draw", false, "draw the figures of the last run again")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	for size := range strings.SplitSeq(sizes, ",") {
		n, err := strconv.Atoi(size)
		if err != nil {
			return o, fmt.Errorf("-sizes: %w", err)
		}
		o.sizes = append(o.sizes, n)
	}
	if len(o.sizes) < 2 || flags.NArg() > 0 {
		return o, errors.New("at least two -sizes, and no arguments")
	}
	return o, nil
}

func command(ctx context.Context, o options) error {
	path := filepath.Join(o.folder, "costs.json")
	if !o.draw {
		c, err := measure(ctx, o)
		if err != nil {
			return err
		}
		content, err := json.MarshalIndent(c, "", "  ")
		if err != nil {
			return fmt.Errorf("rendering the figures: %w", err)
		}
		if err := os.WriteFile(path, append(content, '\n'), 0o644); err != nil {
			return fmt.Errorf("writing the figures: %w", err)
		}
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading the figures: %w", err)
	}
	var c costs
	if err := json.Unmarshal(content, &c); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	for _, p := range plots {
		picture, err := p.draw(c)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(o.folder, p.file), []byte(picture), 0o644); err != nil {
			return fmt.Errorf("writing a picture: %w", err)
		}
	}
	return nil
}
