package main

import (
	"fmt"
	"io"
	"net"
	"os"

	"k8s.io/client-go/tools/clientcmd"
)

// loopbackPort is any free port of this machine's loopback, as a file to be passed on.
func loopbackPort() (*os.File, error) {
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, fmt.Errorf("taking a port for the API server: %w", err)
	}
	defer listener.Close()
	file, err := listener.File()
	if err != nil {
		return nil, fmt.Errorf("taking a port for the API server: %w", err)
	}
	return file, nil
}

// relay carries connections to a port of the machine into the sandbox.
func relay(port net.Listener, to *net.TCPAddr) {
	for {
		outer, err := port.Accept()
		if err != nil {
			return
		}
		go carry(outer, to)
	}
}

// carry ends when the server closes its side. Both ends see a failure themselves.
func carry(outer net.Conn, to *net.TCPAddr) {
	defer outer.Close()
	inner, err := net.DialTCP("tcp", nil, to)
	if err != nil {
		return
	}
	defer inner.Close()
	go func() {
		_, _ = io.Copy(inner, outer)
		_ = inner.CloseWrite()
	}()
	_, _ = io.Copy(outer, inner)
}

// writeKubeconfig copies a kubeconfig for use from outside.
func writeKubeconfig(from, to, address string) error {
	config, err := clientcmd.LoadFromFile(from)
	if err != nil {
		return fmt.Errorf("reading the administrator's kubeconfig: %w", err)
	}
	for _, one := range config.Clusters {
		one.Server = "https://" + address
	}
	if err := clientcmd.WriteToFile(*config, to); err != nil {
		return fmt.Errorf("writing a kubeconfig: %w", err)
	}
	return nil
}
