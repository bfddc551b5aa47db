package page

import (
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

func get(t *testing.T, h http.Handler, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/status", http.NoBody)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

var pages = map[string]Page{"node": Node, "cluster": Cluster}

// What the policy allows is what is in the page, and nothing else; so there is nothing to load from elsewhere either.
func TestPolicy(t *testing.T) {
	for name, p := range pages {
		w := get(t, p)
		body, policy := w.Body.String(), w.Header().Get("Content-Security-Policy")
		for element, directive := range map[string]string{"style": "style-src", "script": "script-src"} {
			parts := regexp.MustCompile(`(?s)<`+element+`[^>]*>(.*?)</`+element+`>`).FindAllStringSubmatch(body, -1)
			if len(parts) != 1 || len(parts[0][1]) < 100 {
				t.Fatalf("%s: %d of %s, want 1 with something in it", name, len(parts), element)
			}
			sum := sha256.Sum256([]byte(parts[0][1]))
			if want := directive + " 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "';"; !strings.Contains(policy, want) {
				t.Errorf("%s: the policy %q lacks %q", name, policy, want)
			}
		}
		for _, directive := range []string{"default-src 'none';", "frame-ancestors 'none';", "base-uri 'none';", "form-action 'none';", "require-trusted-types-for 'script'"} {
			if !strings.Contains(policy, directive) {
				t.Errorf("%s: the policy %q lacks %q", name, policy, directive)
			}
		}
		if strings.Contains(policy, "unsafe") {
			t.Errorf("%s: the policy is %q", name, policy)
		}
		if found := regexp.MustCompile(`\b(src|href)="[^d?/#]|@import|url\(| on[a-z]+="| style="`).FindString(body); found != "" {
			t.Errorf("%s: something is loaded from elsewhere, or the policy forbids it: %s", name, found)
		}
	}
}

func TestHeaders(t *testing.T) {
	for name, p := range pages {
		h := get(t, p).Header()
		for header, want := range map[string]string{
			"Content-Type":                 "text/html; charset=utf-8",
			"X-Content-Type-Options":       "nosniff",
			"Referrer-Policy":              "no-referrer",
			"X-Frame-Options":              "DENY",
			"Cross-Origin-Resource-Policy": "same-origin",
			"Vary":                         "Accept, Accept-Encoding",
		} {
			if got := h.Get(header); got != want {
				t.Errorf("%s: %s is %q, want %q", name, header, got, want)
			}
		}
	}
}

// limit is what a page may weigh: it is part of each agent.
const limit = 60 << 10

func TestSize(t *testing.T) {
	for name, p := range pages {
		packed := get(t, p, "Accept-Encoding", "gzip")
		size := packed.Body.Len()
		unpacked, err := gzip.NewReader(packed.Body)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(unpacked)
		if err != nil || len(body) > limit || string(body) != get(t, p).Body.String() {
			t.Errorf("%s: %v, %d bytes, and at most %d are wanted; or it is not the same unpacked", name, err, len(body), limit)
		}
		t.Logf("%s: %d bytes, %d packed", name, len(body), size)
	}
}

func TestUnchangedPage(t *testing.T) {
	etag := get(t, Node).Header().Get("ETag")
	for known, want := range map[string]int{etag: 304, `"other", W/` + etag: 304, `"other"`: 200, "": 200} {
		if w := get(t, Node, "If-None-Match", known); w.Code != want || (want == 304) != (w.Body.Len() == 0) {
			t.Errorf("with If-None-Match %q it answers %d and %d bytes, want %d", known, w.Code, w.Body.Len(), want)
		}
	}
}

// What makes markup or code of strings has no place in a page that shows what anybody called a Node.
func TestNoMarkupOfStrings(t *testing.T) {
	danger := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|DOMParser|\beval\b|new Function|srcdoc|setAttribute\("on`)
	err := fs.WalkDir(web, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := web.ReadFile(path)
		if found := danger.Find(text); found != nil {
			t.Errorf("%s has %s", path, found)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
