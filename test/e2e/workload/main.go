// Command workload runs in the pods of the e2e tests, and as client and server outside the cluster:
//
//	workload serve [-port 8080] [-until-eof]   answer with our identity (see package talk)
//	workload ask                               ask the Questions on standard input; the Answers
//	workload addresses                         the addresses of this host
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/plainroute/plainroute/test/e2e/talk"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "workload:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	// As PID 1 of a container a signal that isn't asked for would be ignored, and each pod would take 30 s to end.
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	if len(args) == 0 {
		return errors.New("reading arguments: want serve, ask or addresses")
	}
	switch args[0] {
	case "serve":
		return serve(ctx, args[1:])
	case "ask":
		return ask(ctx)
	case "addresses":
		addresses, err := talk.Addresses()
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(addresses)
	}
	return fmt.Errorf("reading arguments: want serve, ask or addresses, not %q", args[0])
}

// serve runs until a signal. With -until-eof it ends with its standard input too, that is with the
// process that started it, however many programs are between them.
func serve(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	port := flags.Uint("port", 8080, "port of HTTP and UDP; bare TCP is on the next one")
	untilEOF := flags.Bool("until-eof", false, "end with standard input")
	if err := flags.Parse(args); err != nil {
		return err
	}
	server, err := newServer(uint16(*port))
	if err != nil {
		return err
	}
	if err := server.Start(ctx); err != nil {
		return err
	}
	defer server.Close()
	fmt.Println("serving")
	if *untilEOF {
		ended, cancel := context.WithCancel(ctx)
		ctx = ended
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			cancel()
		}()
	}
	<-ctx.Done()
	return nil
}

func newServer(port uint16) (*talk.Server, error) {
	name, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("finding this host's name: %w", err)
	}
	if pod := os.Getenv("POD_NAME"); pod != "" {
		name = pod
	}
	return &talk.Server{Pod: name, Node: os.Getenv("NODE_NAME"), Port: port}, nil
}

func ask(ctx context.Context) error {
	var questions []talk.Question
	if err := json.NewDecoder(os.Stdin).Decode(&questions); err != nil {
		return fmt.Errorf("reading questions: %w", err)
	}
	return json.NewEncoder(os.Stdout).Encode(talk.Ask(ctx, questions))
}
