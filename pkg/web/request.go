package web

import (
	"mime"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// wantsHTML reports whether a browser requests a page, and not a program JSON. ?format=html or json
// decides; without it a request that accepts anything, or has no Accept, gets JSON.
func wantsHTML(r *http.Request) bool {
	switch r.URL.Query().Get("format") {
	case "html":
		return true
	case "json":
		return false
	}
	html, json := 0.0, 0.0
	for entry := range strings.SplitSeq(strings.Join(r.Header.Values("Accept"), ","), ",") {
		kind, parameters, _ := mime.ParseMediaType(entry) // RFC 9110, 12.5.1; no type if the entry is malformed
		quality := 1.0
		if q, err := strconv.ParseFloat(parameters["q"], 64); err == nil && q >= 0 && q <= 1 {
			quality = q
		}
		switch kind {
		case "text/html", "application/xhtml+xml":
			html = max(html, quality)
		case "application/json":
			json = max(json, quality)
		}
	}
	return html > json
}

// guarded rejects requests that another site makes, and has browsers keep the answer to its own
// origin.
func guarded(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		guard(w.Header())
		if why := foreign(r); why != "" {
			http.Error(w, why, http.StatusForbidden)
			return
		}
		next(w, r)
	}
}

// guard has browsers trust the media type, keep the answer from other sites, and send no referrer.
func guard(h http.Header) {
	h.Set("Vary", "Accept, Accept-Encoding")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
}

// foreign returns why a request is another site's, or "". A site that the local browser visits may
// resolve its own name to loopback (DNS rebinding) and then read the answers, so requests on
// loopback must name loopback. Addresses can't be rebound, and an operator who listens elsewhere
// has chosen to be reachable.
func foreign(r *http.Request) string {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
	default:
		if r.Header.Get("Sec-Fetch-Mode") != "navigate" { // a link may be followed: the other site can't read the answer
			return "request from another site"
		}
	}
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if local == nil || !isLoopback(local) || isLocal(r.Host) {
		return ""
	}
	return "unknown host name: use localhost or 127.0.0.1"
}

func isLoopback(a net.Addr) bool {
	at, err := netip.ParseAddrPort(a.String())
	return err == nil && at.Addr().Unmap().IsLoopback()
}

// isLocal reports whether a host is an address, or a name of loopback (RFC 6761, 6.3).
func isLocal(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	name = strings.ToLower(strings.TrimSuffix(strings.Trim(name, "[]"), "."))
	_, err = netip.ParseAddr(name)
	return name == "" || err == nil || name == "localhost" || strings.HasSuffix(name, ".localhost")
}
