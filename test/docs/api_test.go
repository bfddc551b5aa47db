package docs

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/plainroute/plainroute/pkg/cleanup"
	"github.com/plainroute/plainroute/pkg/connectivity"
	"github.com/plainroute/plainroute/pkg/diagnosis"
	"github.com/plainroute/plainroute/pkg/fleet"
	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/uninstall"
)

// documents has the Go type of each section of docs/api.md that describes JSON.
var documents = map[string]any{
	"NodeReport":          status.View{},
	"ClusterReport":       fleet.Cluster{},
	"DoctorReport":        diagnosis.Report{},
	"DoctorClusterReport": diagnosis.Cluster{},
	"ConnectivityReport":  connectivity.Result{},
	"CleanupReport":       cleanup.Result{},
	"UninstallReport":     uninstall.Report{},
	"Problems":            problem.Group{},
}

// docs/api.md lists the top-level fields of each document.
func TestFieldsOfDocuments(t *testing.T) {
	page := read(t, "docs/api.md")
	for title, value := range documents {
		_, section, _ := strings.Cut(page, "\n### "+title+"\n")
		section, _, _ = strings.Cut(section, "\n#")
		var listed []string
		for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]*`) \\|").FindAllStringSubmatch(section, -1) {
			listed = append(listed, names(row[1])...)
		}
		want := fields(reflect.TypeOf(value))
		switch title { // what MarshalJSON adds
		case "ConnectivityReport":
			want = append(want, "problems")
		case "CleanupReport":
			want = append(want, "apiVersion", "kind")
		}
		slices.Sort(listed)
		slices.Sort(want)
		if !slices.Equal(listed, want) {
			t.Errorf("%s: the page lists %q, and the type has %q", title, listed, want)
		}
	}
	encoded, err := json.Marshal(&connectivity.Result{})
	if err != nil || !strings.Contains(string(encoded), `"kind":"ConnectivityReport"`) || !strings.Contains(string(encoded), `"problems":[]`) {
		t.Errorf("%v, it is %s", err, encoded)
	}
}

// fields returns the names of a type's top-level fields in JSON.
func fields(of reflect.Type) []string {
	var list []string
	for i := range of.NumField() {
		f := of.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
		case name != "":
			list = append(list, name)
		case f.Anonymous:
			list = append(list, fields(f.Type)...)
		default:
			list = append(list, f.Name)
		}
	}
	return list
}

// docs/api.md has a section for each kind that the code sets.
func TestKinds(t *testing.T) {
	page, kinds := read(t, "docs/api.md"), map[string]bool{}
	for _, text := range sources(t) {
		for _, call := range regexp.MustCompile(`\bTypeMeta\("(\w+)"\)`).FindAllStringSubmatch(text, -1) {
			kinds[call[1]] = true
		}
	}
	for kind := range kinds {
		if !strings.Contains(page, "\n### "+kind+"\n") {
			t.Errorf("docs/api.md lacks the kind %s", kind)
		}
	}
	for title := range documents {
		if title != "Problems" && !kinds[title] {
			t.Errorf("%s is not a kind of the code", title)
		}
	}
}

// Each Reason is in docs/events.md or docs/api.md.
func TestReasonsAreListed(t *testing.T) {
	listed := names(read(t, "docs/events.md") + read(t, "docs/api.md"))
	for _, declared := range regexp.MustCompile(`Reason = "(\w+)"`).FindAllStringSubmatch(read(t, "pkg/problem/reason.go"), -1) {
		if !slices.Contains(listed, declared[1]) {
			t.Errorf("neither page has the Reason %s", declared[1])
		}
	}
}

// names returns the words in backquotes.
func names(text string) []string {
	var list []string
	for _, match := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(text, -1) {
		list = append(list, match[1])
	}
	return list
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// sources returns the text of the product's Go files.
func sources(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, pattern := range []string{"cmd/*/*.go", "controllers/*.go", "pkg/*/*.go"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if rel, err := filepath.Rel(root, file); err == nil && !strings.HasSuffix(file, "_test.go") {
				all[rel] = read(t, rel)
			}
		}
	}
	return all
}
