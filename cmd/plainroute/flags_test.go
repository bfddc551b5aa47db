package main

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"k8s.io/client-go/rest"
)

// The API server's address is kept free of pod subnets, however it is written.
func TestAPIServers(t *testing.T) {
	for host, want := range map[string]string{
		"https://10.0.0.1:6443":        "10.0.0.1",
		"https://10.0.0.1":             "10.0.0.1",
		"https://10.0.0.1/some/path":   "10.0.0.1",
		"10.0.0.1:6443":                "10.0.0.1",
		"10.0.0.1":                     "10.0.0.1",
		"https://[fd00::1]:6443":       "fd00::1",
		"https://[::ffff:10.0.0.1]:1":  "10.0.0.1",
		"https://[fe80::1%25eth0]:443": "fe80::1",
		"https://api.example.com:6443": "",
		"":                             "",
		"https://[":                    "",
	} {
		var list []netip.Addr
		if want != "" {
			list = append(list, netip.MustParseAddr(want))
		}
		if got := apiServers(&rest.Config{Host: host}); !slices.Equal(got, list) {
			t.Errorf("%q: %v, want %v", host, got, list)
		}
	}
}

func TestCheckListen(t *testing.T) {
	for value, good := range map[string]bool{
		"": true, "127.0.0.1:9472": true, "[::1]:9472": true, ":9472": true, "localhost:0": true, "0.0.0.0:65535": true,
		"127.0.0.1": false, "9472": false, "::1:9472": false, "127.0.0.1:": false, "127.0.0.1:65536": false, "127.0.0.1:-1": false, "127.0.0.1:http": false,
	} {
		if err := checkListen("listen", value); (err == nil) != good {
			t.Errorf("%q: %v", value, err)
		}
	}
}

func TestCheckLoopback(t *testing.T) {
	for value, good := range map[string]bool{
		"": true, "127.0.0.1:6060": true, "[::1]:6060": true, "localhost:6060": true, "127.1.2.3:6060": true,
		":6060": false, "0.0.0.0:6060": false, "192.168.1.11:6060": false, "node1:6060": false, "127.0.0.1": false, "127.0.0.1:http": false,
	} {
		if err := checkLoopback("pprof-listen", value); (err == nil) != good {
			t.Errorf("%q: %v", value, err)
		}
	}
}

func TestCheckResync(t *testing.T) {
	for d, good := range map[time.Duration]bool{
		time.Second: true, time.Minute: true, 24 * time.Hour: true,
		0: false, -time.Minute: false, 999 * time.Millisecond: false, 25 * time.Hour: false,
	} {
		if err := checkResync(d); (err == nil) != good {
			t.Errorf("%s: %v", d, err)
		}
	}
}
