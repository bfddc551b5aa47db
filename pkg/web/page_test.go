package web

import (
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"io/fs"
	"math"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
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

var pages = map[string]page{"node": nodePage, "cluster": clusterPage}

// The policy allows the content of the page and nothing else, so nothing is loaded from elsewhere.
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

// limit is the largest size of a page, because it is part of each agent.
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
	etag := get(t, nodePage).Header().Get("ETag")
	for known, want := range map[string]int{etag: 304, `"other", W/` + etag: 304, `"other"`: 200, "": 200} {
		if w := get(t, nodePage, "If-None-Match", known); w.Code != want || (want == 304) != (w.Body.Len() == 0) {
			t.Errorf("with If-None-Match %q it answers %d and %d bytes, want %d", known, w.Code, w.Body.Len(), want)
		}
	}
}

// The pages show names that any writer of Nodes can choose, so no script makes markup or code from
// strings.
func TestNoMarkupOfStrings(t *testing.T) {
	danger := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|DOMParser|\beval\b|new Function|srcdoc|setAttribute\("on`)
	err := fs.WalkDir(assets, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := assets.ReadFile(path)
		if found := danger.Find(text); found != nil {
			t.Errorf("%s has %s", path, found)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// All text has enough contrast (WCAG 2.2, 1.4.3), in the light and the dark theme.
func TestContrast(t *testing.T) {
	themes := regexp.MustCompile(`(?s):root \{(.*?)\}`).FindAllStringSubmatch(read("style.css"), -1)
	if len(themes) != 2 {
		t.Fatalf("there are %d themes, want 2", len(themes))
	}
	for i, theme := range themes {
		light := map[string]float64{}
		for _, c := range regexp.MustCompile(`--([a-z-]+): #([0-9a-f]+);`).FindAllStringSubmatch(theme[1], -1) {
			light[c[1]] = luminance(t, c[2])
		}
		for _, text := range []string{"text", "soft", "ok", "warn", "bad", "link"} {
			for _, ground := range []string{"ground", "card", "fill", text + "-fill"} {
				a, b := light[text], light[ground]
				if _, ok := light[ground]; !ok {
					continue // only states have a ground of their own
				}
				if ratio := (max(a, b) + 0.05) / (min(a, b) + 0.05); ratio < 4.5 {
					t.Errorf("theme %d: %s on %s has a contrast of %.2f, and 4.5 are needed", i, text, ground, ratio)
				}
			}
		}
	}
}

// luminance returns that of a color, relative to white (WCAG 2.2, relative luminance).
func luminance(t *testing.T, hex string) float64 {
	t.Helper()
	if len(hex) == 3 {
		hex = string([]byte{hex[0], hex[0], hex[1], hex[1], hex[2], hex[2]})
	}
	sum := 0.0
	for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
		n, err := strconv.ParseUint(hex[2*i:2*i+2], 16, 8)
		if err != nil {
			t.Fatal(err)
		}
		part := float64(n) / 255
		if part <= 0.04045 {
			part /= 12.92
		} else {
			part = math.Pow((part+0.055)/1.055, 2.4)
		}
		sum += weight * part
	}
	return sum
}
