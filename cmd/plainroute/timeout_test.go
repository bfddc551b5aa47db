//go:build linux

package main

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"
)

// The error of an agent that hangs is a timeout.
func TestAgentHangs(t *testing.T) {
	var c net.ListenConfig
	listener, err := c.Listen(t.Context(), "tcp", "127.0.0.1:0") // the kernel takes connections for it
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, err = askAgent(t.Context(), listener.Addr().String(), 50*time.Millisecond, false)
	if !errors.Is(err, context.DeadlineExceeded) || err.Error() != "no answer within 50ms" {
		t.Errorf("got %v", err)
	}
}
