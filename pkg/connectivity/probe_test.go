package connectivity

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// respond has a responder answer until the test ends.
func respond(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Respond(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	if o := (Probe{TCP, "127.0.0.1:9473"}).try(t.Context()); o.Error != "" { // which waits for it
		t.Fatal(o.Error)
	}
}

func TestProbes(t *testing.T) {
	respond(t)
	var probes []Probe
	for _, ip := range []string{"127.0.0.1", "::1"} {
		for _, kind := range []Kind{TCP, UDP, MTU, Bulk, Reach} {
			probes = append(probes, Probe{kind, join(ip, Port)})
		}
		probes = append(probes, Probe{Large, join(ip, FragmentPort)}, Probe{Reach, join(ip, 1)})
	}
	for i, o := range tryAll(t.Context(), probes) {
		if o.Error != "" || o.Took <= 0 {
			t.Errorf("%v: %+v", probes[i], o)
		}
		if is := probes[i].Kind == TCP; is && (o.Seen != o.Self || !o.Seen.IsLoopback()) || o.Seen.IsValid() != is {
			t.Errorf("%v is seen as %s", probes[i], o.Seen)
		}
	}
}

// A lost packet is reported as no answer, and an error of the kernel with its text.
func TestProbesFail(t *testing.T) {
	deaf, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { deaf.Close() })
	for _, c := range []struct {
		probe Probe
		want  string
	}{
		{Probe{UDP, deaf.LocalAddr().String()}, "no answer"},
		{Probe{TCP, "127.0.0.1:1"}, "connection refused"},
		{Probe{Reach, "203.0.113.1:80"}, "network is unreachable"},
		{Probe{Kind: "letter", To: "127.0.0.1:1"}, "no probe of kind"},
		{Probe{TCP, "nowhere:1"}, "network is unreachable"}, // the DNS server that would know
	} {
		t.Run(string(c.probe.Kind)+" "+c.want, func(t *testing.T) {
			t.Parallel()
			if o := c.probe.try(t.Context()); !strings.Contains(o.Error, c.want) {
				t.Errorf("%v: %q, want %q", c.probe, o.Error, c.want)
			}
		})
	}
}

// A datagram of the MTU is whole or not at all: the kernel may not fragment it.
func TestWholeOrNotAtAll(t *testing.T) {
	respond(t)
	conn, err := net.Dial("udp", "127.0.0.1:9473")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := discovery(unix.IP_PMTUDISC_PROBE)("", "", rawConn(t, conn)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(make([]byte, payload(1500, 1, true)+1)); !errors.Is(err, unix.EMSGSIZE) {
		t.Errorf("a datagram larger than the link is taken: %v", err)
	}
}

func rawConn(t *testing.T, conn net.Conn) interface {
	Control(func(uintptr)) error
	Read(func(uintptr) bool) error
	Write(func(uintptr) bool) error
} {
	t.Helper()
	raw, err := conn.(*net.UDPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestOutcome(t *testing.T) {
	a, b := netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("192.168.1.11")
	for _, c := range []struct {
		o    Outcome
		may  bool
		want string
	}{
		{Outcome{Self: a, Seen: a}, false, ""},
		{Outcome{}, false, ""},
		{Outcome{Self: a, Seen: b}, false, "seen as 192.168.1.11 instead of 10.244.1.2"},
		{Outcome{Self: a, Seen: b}, true, ""},
		{Outcome{Error: os.ErrDeadlineExceeded.Error(), Self: a}, true, "i/o timeout"},
	} {
		if got := c.o.Problem(c.may); !strings.HasPrefix(got, c.want) || (got == "") != (c.want == "") {
			t.Errorf("%+v: %q, want %q", c.o, got, c.want)
		}
	}
}
