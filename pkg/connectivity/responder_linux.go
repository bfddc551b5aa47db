package connectivity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// whoResponse is the response to a probe of kind TCP.
type whoResponse struct {
	Host   string     `json:"host"`
	Source netip.Addr `json:"source"`
}

// Respond answers probes of other pods, and makes those that it is requested to make, until the
// context ends.
func Respond(ctx context.Context) error {
	listen := net.ListenConfig{}
	requests, err := listen.Listen(ctx, "tcp", ":"+strconv.Itoa(Port))
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	server := &http.Server{Handler: handler(), ReadHeaderTimeout: 10 * time.Second}
	var all errgroup.Group
	for port, discover := range map[int]int{Port: unix.IP_PMTUDISC_PROBE, FragmentPort: unix.IP_PMTUDISC_DONT} {
		listen := net.ListenConfig{Control: discovery(discover)}
		conn, err := listen.ListenPacket(ctx, "udp", ":"+strconv.Itoa(port))
		if err != nil {
			return errors.Join(fmt.Errorf("listening: %w", err), server.Close())
		}
		context.AfterFunc(ctx, func() { _ = conn.Close() })
		all.Go(func() error { return echo(conn) })
	}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	all.Go(func() error { return server.Serve(requests) })
	if err := all.Wait(); ctx.Err() == nil {
		return err
	}
	return nil
}

// discovery sets how a socket sends datagrams that exceed the path MTU: IP_PMTUDISC_PROBE sends
// them whole, IP_PMTUDISC_DONT in fragments (ip(7), IP_MTU_DISCOVER).
func discovery(how int) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err4, err6 error
		err := c.Control(func(fd uintptr) {
			err4 = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, how)
			err6 = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, how)
		})
		if err == nil && err4 != nil && err6 != nil { // a socket may have only one family
			err = err4
		}
		return err
	}
}

func echo(conn net.PacketConn) error {
	buffer := make([]byte, 1<<16)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err == nil {
			_, _ = conn.WriteTo(buffer[:n], from) // the sender repeats a lost datagram
		}
	}
}

func handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /who", func(w http.ResponseWriter, r *http.Request) {
		host, _ := os.Hostname()
		from, _ := netip.ParseAddrPort(r.RemoteAddr)
		_ = json.NewEncoder(w).Encode(whoResponse{host, from.Addr().Unmap()})
	})
	mux.HandleFunc("POST /bulk", func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, io.LimitReader(r.Body, bulkSize))
		fmt.Fprint(w, n)
	})
	mux.HandleFunc("POST /probe", func(w http.ResponseWriter, r *http.Request) {
		var probes []Probe
		if err := json.NewDecoder(io.LimitReader(r.Body, 16<<20)).Decode(&probes); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_ = json.NewEncoder(w).Encode(tryAll(r.Context(), probes))
	})
	return mux
}
