package cni

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/plainroute/plainroute/test/testutil"
)

// The plugins of our config are required, and read back as written.
func TestRequiredHoldsWhatTheConfigCalls(t *testing.T) {
	for _, withFirewall := range []bool{false, true} {
		conf := dualStack()
		conf.Firewall = withFirewall
		content, err := Render(conf)
		testutil.Must(t, err)
		var l struct{ Plugins []plugin }
		testutil.Must(t, json.Unmarshal(content, &l))
		want := []string{"loopback"}
		for _, p := range l.Plugins {
			want = append(want, p.Type)
			if p.IPAM != nil {
				want = append(want, p.IPAM.Type)
			}
		}
		got := RequiredBy(&conf)
		slices.Sort(got)
		if slices.Sort(want); !slices.Equal(got, want) || slices.Contains(got, "firewall") != withFirewall {
			t.Errorf("required are %v, want %v", got, want)
		}
		if back := parsed(content); !back.Equal(&conf) {
			t.Errorf("read back as %+v", back)
		}
	}
}
