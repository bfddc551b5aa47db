package page

import (
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// WantsHTML tells whether a request is a browser's for a page, and not a program's for JSON. ?format=html or json has the
// last word. Programs accept anything, or say nothing: they get JSON.
func WantsHTML(r *http.Request) bool {
	switch r.URL.Query().Get("format") {
	case "html":
		return true
	case "json":
		return false
	}
	html, json := 0.0, 0.0
	for _, accepted := range strings.Split(strings.Join(r.Header.Values("Accept"), ","), ",") {
		kind, quality := acceptable(accepted)
		switch kind {
		case "text/html", "application/xhtml+xml":
			html = max(html, quality)
		case "application/json":
			json = max(json, quality)
		}
	}
	return html > json
}

// acceptable splits an entry of Accept into a kind and how much it is wanted (RFC 9110, 12.5.1).
func acceptable(entry string) (kind string, quality float64) {
	kind, parameters, _ := strings.Cut(entry, ";")
	quality = 1
	for _, p := range strings.Split(parameters, ";") {
		if text, ok := strings.CutPrefix(strings.TrimSpace(p), "q="); ok {
			if q, err := strconv.ParseFloat(text, 64); err == nil && q >= 0 && q <= 1 {
				quality = q
			}
		}
	}
	return strings.ToLower(strings.TrimSpace(kind)), quality
}

// Unchanged tells whether the client has what bears the ETag already (RFC 9110, 13.1.2).
func Unchanged(r *http.Request, etag string) bool {
	for _, known := range strings.Split(r.Header.Get("If-None-Match"), ",") {
		if strings.TrimPrefix(strings.TrimSpace(known), "W/") == strings.TrimPrefix(etag, "W/") {
			return true
		}
	}
	return false
}

// Guarded has a handler answer only those who may ask, and tells browsers to keep the answer to where it is from.
func Guarded(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		guard(w.Header())
		if why := foreign(r); why != "" {
			http.Error(w, why, http.StatusForbidden)
			return
		}
		next(w, r)
	}
}

// guard has browsers take the answer for what it says it is, keep it from other sites, and tell nobody where it came from.
func guard(h http.Header) {
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
}

// foreign says why a request is another site's, or nothing. On loopback there is a browser that visits all the world: a
// site may give its own name our address (DNS rebinding) and then read what it asks for, so only the names that
// loopback has are answered there. Addresses can't be rebound, and who listens elsewhere has chosen to be found.
func foreign(r *http.Request) string {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
	default:
		if r.Header.Get("Sec-Fetch-Mode") != "navigate" { // following a link is fine: nobody can read what comes
			return "another site asks for this"
		}
	}
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if local == nil || !isLoopback(local) || isLocal(r.Host) {
		return ""
	}
	return "this is asked for by a name that is not this machine's: use localhost or 127.0.0.1"
}

func isLoopback(a net.Addr) bool {
	at, err := netip.ParseAddrPort(a.String())
	return err == nil && at.Addr().Unmap().IsLoopback()
}

// isLocal tells an address, or the name of loopback (RFC 6761, 6.3), from other names.
func isLocal(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	name = strings.ToLower(strings.TrimSuffix(strings.Trim(name, "[]"), "."))
	_, err = netip.ParseAddr(name)
	return name == "" || err == nil || name == "localhost" || strings.HasSuffix(name, ".localhost")
}
