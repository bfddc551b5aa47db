package status

import (
	"compress/gzip"
	"net/http"
	"strings"
)

// NotModified sets the ETag of a response, and reports whether it has sent 304 because the client
// has that version already (RFC 9110, 13.1.2: a weak comparison).
func NotModified(w http.ResponseWriter, r *http.Request, etag string) bool {
	w.Header().Set("ETag", etag)
	for _, has := range strings.Split(r.Header.Get("If-None-Match"), ",") {
		if strings.TrimPrefix(strings.TrimSpace(has), "W/") == strings.TrimPrefix(etag, "W/") {
			w.WriteHeader(http.StatusNotModified)
			return true
		}
	}
	return false
}

// SendJSON sends a body of JSON. It compresses for clients that accept it: fleet status of
// thousands of agents would otherwise transfer gigabytes through the API server.
func SendJSON(w http.ResponseWriter, r *http.Request, body []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Accept, Accept-Encoding")
	// A failed write means that the client has closed the connection.
	if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		_, _ = w.Write(body)
		return
	}
	h.Set("Content-Encoding", "gzip")
	packed, _ := gzip.NewWriterLevel(w, gzip.BestSpeed) // the level is valid
	_, _ = packed.Write(body)
	_ = packed.Close()
}
