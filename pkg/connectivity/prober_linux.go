package connectivity

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// tryAll makes all probes, and returns their outcomes in the same order.
func tryAll(ctx context.Context, probes []Probe) []Outcome {
	outcomes := make([]Outcome, len(probes))
	var all errgroup.Group
	all.SetLimit(maxProbes)
	for i, p := range probes {
		all.Go(func() error {
			outcomes[i] = p.try(ctx)
			return nil
		})
	}
	_ = all.Wait()
	return outcomes
}

// try makes a probe, and repeats it if it fails.
func (p Probe) try(ctx context.Context) Outcome {
	var o Outcome
	for range attempts {
		begin := time.Now()
		limited, cancel := context.WithTimeout(ctx, probeTimeout)
		err := p.once(limited, &o)
		if o.Took = time.Since(begin); err != nil {
			o.Error = brief(err)
			<-limited.Done()
		}
		cancel()
		if err == nil {
			o.Error = ""
			return o
		}
	}
	return o
}

// brief returns an error without the addresses, which the Probe has.
func brief(err error) string {
	var op *net.OpError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return "no answer"
	case errors.As(err, &op):
		return op.Err.Error()
	}
	return err.Error()
}

func (p Probe) once(ctx context.Context, o *Outcome) error {
	switch p.Kind {
	case TCP:
		return p.requestSource(ctx, o)
	case Bulk:
		return p.bulk(ctx)
	case UDP, MTU, Large:
		return p.datagram(ctx)
	case Name:
		_, err := net.DefaultResolver.LookupNetIP(ctx, "ip", p.To)
		return err
	case Reach:
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", p.To)
		if errors.Is(err, unix.ECONNREFUSED) {
			return nil
		}
		if err == nil {
			_ = conn.Close()
		}
		return err
	}
	return fmt.Errorf("there is no probe of kind %q", p.Kind)
}

// requestSource requests this pod's source address as the other end sees it, over a new connection.
func (p Probe) requestSource(ctx context.Context, o *Outcome) error {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			local, _ := netip.ParseAddrPort(conn.LocalAddr().String())
			o.Self = local.Addr().Unmap()
		}
		return conn, err
	}}
	var answer whoResponse
	err := p.request(ctx, transport, http.MethodGet, "/who", http.NoBody, &answer)
	o.Seen = answer.Source
	return err
}

func (p Probe) bulk(ctx context.Context) error {
	var arrived int
	err := p.request(ctx, &http.Transport{DisableKeepAlives: true}, http.MethodPost, "/bulk", bytes.NewReader(make([]byte, bulkSize)), &arrived)
	if err == nil && arrived != bulkSize {
		return fmt.Errorf("%d of %d bytes arrived", arrived, bulkSize)
	}
	return err
}

func (p Probe) request(ctx context.Context, transport http.RoundTripper, method, path string, body io.Reader, into any) error {
	request, err := http.NewRequestWithContext(ctx, method, "http://"+p.To+path, body)
	if err != nil {
		return err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return json.NewDecoder(io.LimitReader(response.Body, 4<<10)).Decode(into)
}

// datagram sends a datagram and waits for its echo.
func (p Probe) datagram(ctx context.Context) error {
	how := unix.IP_PMTUDISC_PROBE
	if p.Kind == Large {
		how = unix.IP_PMTUDISC_DONT
	}
	dialer := net.Dialer{Control: discovery(how)}
	conn, err := dialer.DialContext(ctx, "udp", p.To)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	sent := make([]byte, smallSize)
	if p.Kind != UDP {
		mtu, is4, err := mtuOf(conn)
		if err != nil {
			return err
		}
		sent = make([]byte, payload(mtu, map[Kind]int{MTU: 1, Large: 3}[p.Kind], is4))
	}
	if _, err := conn.Write(sent); err != nil {
		return err
	}
	back := make([]byte, len(sent)+1)
	n, err := conn.Read(back)
	if err == nil && n != len(sent) {
		return fmt.Errorf("of %d bytes %d came back", len(sent), n)
	}
	return err
}

// mtuOf returns the MTU of the link that has a connection's own address.
func mtuOf(conn net.Conn) (mtu int, is4 bool, err error) {
	local, err := netip.ParseAddrPort(conn.LocalAddr().String())
	if err != nil {
		return 0, false, err
	}
	own := local.Addr().Unmap()
	links, err := net.Interfaces()
	if err != nil {
		return 0, false, fmt.Errorf("listing links: %w", err)
	}
	for _, link := range links {
		addrs, _ := link.Addrs() // of a link that is gone: none
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap() == own {
				return link.MTU, own.Is4(), nil
			}
		}
	}
	return 0, false, fmt.Errorf("no link has the address %s", own)
}
