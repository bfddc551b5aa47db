// Package page has the pages that people look at in a browser. Each is one document: its style and its script are in it,
// and its data is JSON that it asks for at its own address.
package page

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
)

//go:embed web
var web embed.FS

// Page is made of files when somebody asks for it, and is not kept: an agent is asked for it seldom, and the files are
// part of the program, which the kernel needn't keep in memory.
type Page struct {
	frame           string
	styles, scripts []string
}

// The pages there are.
var (
	// Node shows the report of one agent.
	Node = Page{"node.html", []string{"style.css"}, []string{"parts.js", "feed.js", "table.js", "picture.js", "node.js"}}
	// Cluster shows what all agents say.
	Cluster = Page{"cluster.html", []string{"style.css", "cluster.css"}, []string{"parts.js", "feed.js", "table.js", "ring.js", "matrix.js", "cluster.js"}}
)

// The places in a frame where style and script go.
const (
	stylePlace  = "/*style*/"
	scriptPlace = "/*script*/"
)

// ServeHTTP answers with the page. Nothing but what is in it may run or be loaded, and nobody may frame it
// (CSP Level 3, 6.4.2): it is shown by machines that mustn't be clicked on for others.
func (p Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	style, script := join(p.styles), join(p.scripts)
	h := w.Header()
	guard(h)
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", policy(style, script))
	h.Set("X-Frame-Options", "DENY")
	h.Set("Cache-Control", "no-cache")
	h.Set("Vary", "Accept, Accept-Encoding")
	body := strings.NewReplacer(stylePlace, style, scriptPlace, script).Replace(read(p.frame))
	etag := `"` + digest(body) + `"`
	h.Set("ETag", etag)
	if Unchanged(r, etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	packed := []byte(body)
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		packed = pack(body)
	}
	_, _ = w.Write(packed) // an error is the client's going away
}

// policy allows the page's own style and script by their digests, questions to where it is from, and nothing else.
// What is a string never becomes markup (Trusted Types): the names of Nodes are whatever somebody called them.
func policy(style, script string) string {
	return strings.Join([]string{
		"default-src 'none'",
		"style-src 'sha256-" + digest(style) + "'",
		"script-src 'sha256-" + digest(script) + "'",
		"connect-src 'self'",
		"img-src data:",
		"base-uri 'none'",
		"form-action 'none'",
		"frame-ancestors 'none'",
		"require-trusted-types-for 'script'",
		"trusted-types 'none'",
	}, "; ")
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func pack(text string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(text)) // to memory
	_ = w.Close()
	return b.Bytes()
}

// join is the text of files, one after the other.
func join(names []string) string {
	var b strings.Builder
	for _, name := range names {
		b.WriteString(read(name))
	}
	return b.String()
}

func read(name string) string {
	text, err := web.ReadFile("web/" + name)
	if err != nil {
		panic(fmt.Sprintf("reading what is embedded: %v", err)) // a test serves each page
	}
	return string(text)
}
