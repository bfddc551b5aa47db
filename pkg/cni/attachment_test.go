package cni

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// Only what libcni has written of our network counts. (test/faults has libcni itself write it.)
func TestAttachments(t *testing.T) {
	cache := t.TempDir()
	if got, err := Attachments(cache); err != nil || len(got) > 0 {
		t.Errorf("without a cache: %v, %v", got, err)
	}
	results := filepath.Join(cache, "results")
	if err := os.Mkdir(results, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"plainroute-a-eth0":   `{"kind":"cniCacheV1","networkName":"plainroute","containerId":"a","ifName":"eth0"}`,
		"plainroute-b-net1":   `{"kind":"cniCacheV1","networkName":"plainroute","containerId":"b","ifName":"net1"}`,
		"plainroute-x-c-eth0": `{"kind":"cniCacheV1","networkName":"plainroute-x","containerId":"c","ifName":"eth0"}`,
		"cni-loopback-a-lo":   `{"kind":"cniCacheV1","networkName":"cni-loopback","containerId":"a","ifName":"lo"}`,
		"plainroute-d-eth0":   `{"kind":"another","networkName":"plainroute","containerId":"d","ifName":"eth0"}`,
		"plainroute-e-eth0":   `{"kind":"cniCacheV1","netw`,
	} {
		if err := os.WriteFile(filepath.Join(results, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Attachments(cache)
	if want := []Holder{{"a", "eth0"}, {"b", "net1"}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	file := filepath.Join(t.TempDir(), "results")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Attachments(filepath.Dir(file)); err == nil {
		t.Error("a cache that can't be read has none attached")
	}
}
