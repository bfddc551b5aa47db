package cni

import (
	"encoding/json"
	"slices"
	"testing"
)

// What our config calls is required.
func TestRequiredHoldsWhatTheConfigCalls(t *testing.T) {
	content, err := Render(dualStack())
	must(t, err)
	var l conflist
	must(t, json.Unmarshal(content, &l))
	want := []string{"loopback"}
	for _, p := range l.Plugins {
		want = append(want, p.Type)
		if p.IPAM != nil {
			want = append(want, p.IPAM.Type)
		}
	}
	slices.Sort(want)
	if got := Required(); !slices.Equal(got, want) {
		t.Errorf("required are %v, want %v", got, want)
	}
}
