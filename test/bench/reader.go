package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/plainroute/plainroute/test/testutil"
)

// readerCommand is the argument by which bench runs itself as a reader.
const readerCommand = "read-watch"

// readWatch watches Nodes as the agent does, and throws away what it reads: the least that a program can do for an event.
func readWatch(kubeconfig, version string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return fmt.Errorf("reading a kubeconfig: %w", err)
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	query := "/api/v1/nodes?watch=true&allowWatchBookmarks=true&resourceVersion=" + version
	request, err := http.NewRequest(http.MethodGet, config.Host+query, http.NoBody)
	if err != nil {
		return fmt.Errorf("making a request: %w", err)
	}
	request.Header.Set("Accept", "application/vnd.kubernetes.protobuf;stream=watch")
	answer, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("watching Nodes: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("watching Nodes: %s", answer.Status)
	}
	_, err = io.Copy(io.Discard, answer.Body)
	return err
}

// startReader starts a reader on the machine, as a process of its own. Call stop to end it.
func (l *lab) startReader(ctx context.Context) (reader *exec.Cmd, stop func(), err error) {
	one, err := l.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return nil, nil, fmt.Errorf("getting the resource version: %w", err)
	}
	reader = exec.Command("/proc/self/exe", readerCommand, l.kubeconfig, one.ResourceVersion)
	reader.Stderr = os.Stderr
	if err := l.machine.Do(reader.Start); err != nil {
		return nil, nil, fmt.Errorf("starting a reader: %w", err)
	}
	stop = func() {
		_ = reader.Process.Kill()
		_ = reader.Wait()
	}
	if err := testutil.Pause(ctx, time.Second); err != nil {
		stop()
		return nil, nil, fmt.Errorf("starting a reader: %w", err)
	}
	return reader, stop, nil
}
