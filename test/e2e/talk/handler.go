package talk

import (
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
)

// handler answers with our identity, and serves the requests of tests:
//
//	GET    /           an Identity
//	GET    /addresses  the addresses of this host, but for loopback and link-local ones
//	POST   /ask        Questions; the Answers
//	POST   /flows      targets to start flows to
//	GET    /flows      Reports as of now
//	DELETE /flows      ends the flows; their last Reports
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.answerIdentity)
	mux.HandleFunc("GET /addresses", answerAddresses)
	mux.HandleFunc("POST /ask", answerQuestions)
	mux.HandleFunc("POST /flows", s.startFlows)
	mux.HandleFunc("GET /flows", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.flows.count()) })
	mux.HandleFunc("DELETE /flows", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.flows.stop()) })
	return mux
}

func (s *Server) answerIdentity(w http.ResponseWriter, r *http.Request) {
	seen, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		refuse(w, err)
		return
	}
	_, _ = w.Write(s.identity(net.TCPAddrFromAddrPort(seen)))
}

func answerAddresses(w http.ResponseWriter, _ *http.Request) {
	addresses, err := Addresses()
	if err != nil {
		refuse(w, err)
		return
	}
	answer(w, addresses)
}

func answerQuestions(w http.ResponseWriter, r *http.Request) {
	var questions []Question
	if err := json.NewDecoder(r.Body).Decode(&questions); err != nil {
		refuse(w, err)
		return
	}
	answer(w, Ask(r.Context(), questions))
}

func (s *Server) startFlows(w http.ResponseWriter, r *http.Request) {
	var targets []string
	err := json.NewDecoder(r.Body).Decode(&targets)
	if err == nil {
		err = s.flows.start(r.Context(), s.Pod, targets)
	}
	if err != nil {
		refuse(w, err)
		return
	}
	answer(w, s.flows.count())
}

func answer(w http.ResponseWriter, what any) {
	// A client that has gone away needs no answer.
	_ = json.NewEncoder(w).Encode(what)
}

func refuse(w http.ResponseWriter, err error) {
	http.Error(w, err.Error(), http.StatusBadRequest)
}

// Addresses are those of this host that others can use.
func Addresses() ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var addresses []netip.Addr
	for _, one := range all {
		prefix, err := netip.ParsePrefix(one.String())
		if err == nil && prefix.Addr().IsGlobalUnicast() {
			addresses = append(addresses, prefix.Addr())
		}
	}
	return addresses, nil
}
