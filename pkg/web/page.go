// Package web is what a browser shows of plainroute: the page of one agent, and `plainroute
// dashboard`, which shows a whole cluster. Each page is one document that holds its style and
// script, and reads its data as JSON from its own address.
package web

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"time"
)

//go:embed assets
var assets embed.FS

// page names the files that make up a document. It is assembled for each request and not kept:
// requests are rare, and the files are part of the program.
type page struct {
	frame           string
	styles, scripts []string
}

// nodePage shows the report of one agent, clusterPage the fleet status.
var (
	nodePage    = page{"node.html", []string{"style.css"}, []string{"parts.js", "feed.js", "table.js", "picture.js", "node.js"}}
	clusterPage = page{"cluster.html", []string{"style.css", "cluster.css"}, []string{"parts.js", "feed.js", "table.js", "ring.js", "matrix.js", "cluster.js"}}
)

// NodePage shows a browser the page of one agent, and passes other requests to report, which
// answers with JSON.
func NodePage(report http.HandlerFunc) http.HandlerFunc { return nodePage.orJSON(report) }

func (p page) orJSON(report http.HandlerFunc) http.HandlerFunc {
	return guarded(func(w http.ResponseWriter, r *http.Request) {
		if wantsHTML(r) {
			p.ServeHTTP(w, r)
			return
		}
		report(w, r)
	})
}

// ServeHTTP sends the page. Its policy (CSP Level 3) allows only the style and script that are part
// of it, and forbids frames (6.4.2), so that no other site can have its visitors click on it.
func (p page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	style, script := read(p.styles...), read(p.scripts...)
	h := w.Header()
	guard(h)
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", policy(style, script))
	h.Set("X-Frame-Options", "DENY")
	h.Set("Cache-Control", "no-cache")
	body := []byte(strings.NewReplacer("/*style*/", style, "/*script*/", script).Replace(read(p.frame)))
	h.Set("ETag", `"`+digest(string(body))+`"`)
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		var b bytes.Buffer
		packed := gzip.NewWriter(&b)
		_, _ = packed.Write(body) // to memory
		_ = packed.Close()
		body = b.Bytes()
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
}

// policy allows the page's own style and script by their digests, requests to its own origin, and
// nothing else. Trusted Types keep a string, such as the name of a Node, from becoming markup.
func policy(style, script string) string {
	return strings.Join([]string{
		"default-src 'none'", "style-src 'sha256-" + digest(style) + "'", "script-src 'sha256-" + digest(script) + "'",
		"connect-src 'self'", "img-src data:", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
		"require-trusted-types-for 'script'", "trusted-types 'none'",
	}, "; ")
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// read returns the text of the files, concatenated.
func read(names ...string) string {
	var b strings.Builder
	for _, name := range names {
		text, err := assets.ReadFile("assets/" + name)
		if err != nil {
			panic(fmt.Sprintf("reading an embedded file: %v", err)) // a test serves each page
		}
		b.Write(text)
	}
	return b.String()
}
