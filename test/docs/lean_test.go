package docs

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// heavy are packages that bring the types of all API groups into each agent's memory. Tests may use them.
var heavy = []string{
	"k8s.io/client-go/applyconfigurations", "k8s.io/client-go/informers", "k8s.io/client-go/kubernetes", "k8s.io/client-go/listers",
	"k8s.io/client-go/testing", "sigs.k8s.io/controller-runtime",
}

// The program imports none of the heavy packages, directly or by way of others.
func TestLeanProgram(t *testing.T) {
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./cmd/plainroute")
	list.Dir = root
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	isHeavy := func(pkg string) bool {
		return slices.ContainsFunc(heavy, func(h string) bool { return pkg == h || strings.HasPrefix(pkg, h+"/") })
	}
	packages := 0
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		packages++
		for _, imported := range words[1:] {
			if isHeavy(imported) && !isHeavy(words[0]) {
				t.Errorf("%s imports %s", words[0], imported)
			}
		}
	}
	if packages < 100 {
		t.Errorf("go list shows %d packages only", packages)
	}
}
