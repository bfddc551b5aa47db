package kubelets

import (
	"path/filepath"
	"strings"
	"testing"
)

// A request that can't be served gets an error with the reason.
func TestAskInVain(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "control.sock")
	if err := (&Cluster{nodes: []*Node{{Name: "off"}}}).Serve(t.Context(), socket); err != nil {
		t.Fatal(err)
	}
	for want, request := range map[string]Request{
		`no node "node-9"`:    {Verb: "exec", Node: "node-9", Args: []string{"true"}},
		"off is off":          {Verb: "exec", Node: "off", Args: []string{"true"}},
		"off is off already":  {Verb: "reboot", Node: "off"},
		"there is a off":      {Verb: "add", Node: "off"},
		"more than 12":        {Verb: "add", Node: "a-name-far-too-long"},
		`no verb "fly"`:       {Verb: "fly", Node: "off"},
		"a command is needed": {Verb: "outside"},
	} {
		code, err := Ask(socket, request)
		if code != 1 || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %d, %v; want %q", request, code, err, want)
		}
	}
	if _, err := Ask(filepath.Join(t.TempDir(), "missing.sock"), Request{Verb: "add"}); err == nil {
		t.Error("a request without a server succeeds")
	}
}
