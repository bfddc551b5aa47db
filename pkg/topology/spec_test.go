package topology

import "testing"

// CNI 1.1.0 is offered if all plugins of the config accept it, and only then.
func TestCNI11TakesAllPlugins(t *testing.T) {
	for _, c := range []struct {
		plugins  []string
		firewall bool
		want     bool
	}{
		{nil, false, false},
		{[]string{"bridge", "host-local", "portmap"}, false, true},
		{[]string{"bridge", "host-local", "portmap"}, true, false},
		{[]string{"bridge", "firewall", "host-local", "loopback", "portmap"}, true, true},
		{[]string{"bridge", "portmap"}, false, false},
	} {
		b := &builder{input: &input{opts: Options{Firewall: c.firewall}, host: Host{CNI11: c.plugins}}}
		if got := b.acceptCNI11(); got != c.want {
			t.Errorf("plugins %v, firewall %t: %t", c.plugins, c.firewall, got)
		}
	}
	b := &builder{input: &input{host: Host{CNI11: []string{"bridge", "host-local", "portmap"}, Plugins: []Plugin{{Type: "mesh"}}}}}
	if b.acceptCNI11() {
		t.Error("1.1.0 is offered with a chained plugin that may not accept it")
	}
	if b.host.CNI11 = append(b.host.CNI11, "mesh"); !b.acceptCNI11() {
		t.Error("1.1.0 is not offered with a chained plugin that accepts it")
	}
}
