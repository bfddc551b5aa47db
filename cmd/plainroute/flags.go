package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/plainroute/plainroute/pkg/kube"
	"github.com/plainroute/plainroute/pkg/topology"
)

// networkFlags are the flags that agent and plan share.
type networkFlags struct {
	nodeFlags
	reachFlags
	kubeconfig, maskSizes4, maskSizes6, ignoreNodes           string
	clusterCIDRs, serviceCIDRs, nodeCIDRs, nonMasqueradeCIDRs []string

	masquerade          masquerade
	mtu                 int
	firewall            bool
	ignoreNodesSelector labels.Selector
}

func (f *networkFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.kubeconfig, "kubeconfig", "", "file with the API server's address and credentials (default: those of the pod)")
	fs.StringSliceVar(&f.clusterCIDRs, "cluster-cidr", nil, "accept pod subnets only inside these ranges")
	fs.StringVar(&f.maskSizes4, maskSizeFlag4, "", "accept IPv4 pod subnets of these lengths in bits: one, or a range such as 24-28 "+maskSizeDefault)
	fs.StringVar(&f.maskSizes6, maskSizeFlag6, "", "accept IPv6 pod subnets of these lengths in bits: one, or a range such as 64-80 "+maskSizeDefault)
	fs.StringSliceVar(&f.serviceCIDRs, "service-cidr", nil, "refuse pod subnets that overlap these ranges of Services")
	fs.StringSliceVar(&f.nodeCIDRs, "node-cidr", nil, "accept next hops only inside these ranges")
	f.masquerade = "true"
	fs.Var(&f.masquerade, "masquerade", "replace pods' addresses with the node's in packets that leave the cluster: true, false, or ipv4 or ipv6 alone")
	fs.Lookup("masquerade").NoOptDefVal = "true"
	offer(cmd, "masquerade", "true", "false", "ipv4", "ipv6")
	fs.StringSliceVar(&f.nonMasqueradeCIDRs, "non-masquerade-cidr", nil, "more destinations that see pods' own addresses")
	fs.IntVar(&f.mtu, "mtu", 0, "MTU of the pods in bytes, which limits that of tunnels too (default: the uplink's, less 50 with --encapsulation, or 70 with IPv6)")
	f.reachFlags.register(cmd)
	fs.BoolVar(&f.firewall, "firewall-plugin", false, "add the stock firewall plugin, which accepts what each pod sends and the answers, for a firewall that drops forwarded packets; needs iptables on the node")
	f.bridge = topology.Bridge
	f.declare(fs, "bridge", "run-dir")
	fs.StringVar(&f.ignoreNodes, "ignore-nodes", "", "label selector of Nodes that are not peers, such as virtual kubelets")
}

const (
	maskSizeFlag4   = "node-cidr-mask-size-ipv4"
	maskSizeFlag6   = "node-cidr-mask-size-ipv6"
	maskSizeDefault = "(default: our own subnet's and, inside --cluster-cidr, any up to a sixteenth of the range)"
)

// masquerade is a flag's value: ipv4, ipv6, or a boolean as pflag parses it.
type masquerade string

func (m *masquerade) String() string { return string(*m) }
func (m *masquerade) Type() string   { return "families" }

func (m *masquerade) Set(value string) error {
	if both, err := strconv.ParseBool(value); err == nil {
		value = strconv.FormatBool(both)
	} else if value != "ipv4" && value != "ipv6" {
		return fmt.Errorf("%q is not one of true, false, ipv4, ipv6", value)
	}
	*m = masquerade(value)
	return nil
}

// environment sets each flag that was not given from PLAINROUTE_<FLAG>.
func environment(fs *pflag.FlagSet) []error {
	var errs []error
	fs.VisitAll(func(f *pflag.Flag) {
		name := "PLAINROUTE_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value, ok := os.LookupEnv(name)
		if !ok || f.Changed {
			return
		}
		if err := fs.Set(f.Name, value); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	})
	return errs
}

// options returns the options, and an error for each invalid flag.
func (f *networkFlags) options() (topology.Options, []error) {
	var errs []error
	prefixes := func(flag string, values []string) (parsed []netip.Prefix) {
		for _, value := range values {
			p, err := parsePrefix(flag, value)
			parsed, errs = append(parsed, p), append(errs, err)
		}
		return parsed
	}
	lengths := func(flag, value string, lowest, highest int) topology.Lengths {
		parsed, err := parseLengths(flag, value, lowest, highest)
		errs = append(errs, err)
		return parsed
	}
	opts := topology.Options{
		ClusterCIDRs: prefixes("cluster-cidr", f.clusterCIDRs), ServiceCIDRs: prefixes("service-cidr", f.serviceCIDRs),
		NodeCIDRs: prefixes("node-cidr", f.nodeCIDRs), NonMasqueradeCIDRs: prefixes("non-masquerade-cidr", f.nonMasqueradeCIDRs),
		MaskSizes4: lengths(maskSizeFlag4, f.maskSizes4, 8, 30), MaskSizes6: lengths(maskSizeFlag6, f.maskSizes6, 16, 126),
		Masquerade: f.masquerade != "false", Unmasqueraded4: f.masquerade == "ipv6", Unmasqueraded6: f.masquerade == "ipv4",
		MTU: f.mtu, Firewall: f.firewall, Bridge: f.bridge, RunDir: f.runDir,
	}
	errs = append(errs, f.reachFlags.options(&opts)...)
	if f.mtu != 0 {
		errs = append(errs, inRange("mtu", f.mtu, 576, 65535))
	}
	if f.mtu != 0 && f.mtu < 1280 && strings.Contains(strings.Join(f.clusterCIDRs, ""), ":") {
		errs = append(errs, fmt.Errorf("--mtu: %d is less than the 1280 that IPv6 needs (RFC 8200)", f.mtu))
	}
	selector, err := labels.Parse(f.ignoreNodes)
	if err != nil {
		errs = append(errs, fmt.Errorf("--ignore-nodes: %w", err))
	}
	if f.ignoreNodes != "" {
		f.ignoreNodesSelector = selector
	}
	return opts, append(errs, clash(opts)...)
}

// clash returns an error for each pair of ranges that contradict each other. A smaller range of
// Services inside the pods' is left out by the controller manager (filterOutServiceRange of
// pkg/controller/nodeipam/ipam), and the pods' range takes precedence over a wider one of Nodes.
func clash(opts topology.Options) []error {
	var errs []error
	for _, c := range opts.ClusterCIDRs {
		for _, s := range opts.ServiceCIDRs {
			if c.Overlaps(s) && c.Bits() >= s.Bits() {
				errs = append(errs, fmt.Errorf("--cluster-cidr %s overlaps --service-cidr %s", c, s))
			}
		}
		for _, n := range opts.NodeCIDRs {
			if c.Overlaps(n) && c.Bits() <= n.Bits() {
				errs = append(errs, fmt.Errorf("--cluster-cidr %s overlaps --node-cidr %s", c, n))
			}
		}
		sizes := opts.MaskSizes6
		if c.Addr().Is4() {
			sizes = opts.MaskSizes4
		}
		if sizes != (topology.Lengths{}) && sizes.Narrowest < c.Bits() {
			errs = append(errs, fmt.Errorf("--cluster-cidr %s is too small for a pod subnet of %d bits", c, sizes.Narrowest))
		}
	}
	return errs
}

// parseLengths parses lengths of pod subnets: 24, or 24-28; 0 is none, from when the flag was a number.
func parseLengths(flag, value string, lowest, highest int) (topology.Lengths, error) {
	if value == "" || value == "0" {
		return topology.Lengths{}, nil
	}
	first, last, isRange := strings.Cut(value, "-")
	if !isRange {
		last = first
	}
	widest, err1 := strconv.Atoi(first)
	narrowest, err2 := strconv.Atoi(last)
	switch {
	case err1 != nil || err2 != nil:
		return topology.Lengths{}, fmt.Errorf("--%s: %q is neither a length such as 24 nor a range such as 24-28", flag, value)
	case widest < lowest || narrowest > highest:
		return topology.Lengths{}, fmt.Errorf("--%s: %s is not between %d and %d", flag, value, lowest, highest)
	case widest > narrowest:
		return topology.Lengths{}, fmt.Errorf("--%s: %s starts with the longer prefix; did you mean %d-%d?", flag, value, narrowest, widest)
	}
	return topology.Lengths{Widest: widest, Narrowest: narrowest}, nil
}

func parsePrefix(flag, value string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(strings.TrimSpace(value))
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("--%s: %q is not a range such as 10.244.0.0/16", flag, value)
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("--%s: %q has host bits set; did you mean %s?", flag, value, p.Masked())
	}
	return p, nil
}

// restConfig returns the config of a client for the API server. Requests are not throttled: there is
// one list and one watch.
func restConfig(kubeconfig string) (*rest.Config, error) {
	read := func() (*rest.Config, error) { return clientcmd.BuildConfigFromFlags("", kubeconfig) }
	if kubeconfig == "" {
		read = rest.InClusterConfig
	}
	config, err := read()
	switch {
	case errors.Is(err, rest.ErrNotInCluster):
		return nil, errors.New("not running in a pod of a cluster: give --kubeconfig FILE")
	case err != nil && kubeconfig != "":
		return nil, fmt.Errorf("reading --kubeconfig %s: %w", kubeconfig, err)
	case err != nil:
		return nil, fmt.Errorf("reading the pod's credentials: %w", err)
	}
	config.QPS = -1
	config.Dial = (&net.Dialer{Timeout: dialLimit, KeepAlive: 30 * time.Second}).DialContext
	config.DisableCompression = true // decompression costs more than the bytes do on a LAN
	noticeDeadConnections()
	config.UserAgent = "plainroute/" + version
	return config, nil
}

// dialLimit bounds one attempt to connect to the API server. client-go's 30 s would delay by as much an
// agent that starts while routes are wrong.
const dialLimit = 5 * time.Second

// noticeDeadConnections makes client-go send a PING on a connection to the API server that is idle for
// 5 s, and close it if no answer arrives within 5 s. A load balancer that has lost the connection sends
// nothing, and client-go's defaults are 30 s and 15 s. client-go reads them from the environment
// (net.ConfigureHTTP2Transport of k8s.io/apimachinery), where an operator's values stay.
func noticeDeadConnections() {
	for _, name := range []string{"HTTP2_READ_IDLE_TIMEOUT_SECONDS", "HTTP2_PING_TIMEOUT_SECONDS"} {
		if _, set := os.LookupEnv(name); !set {
			_ = os.Setenv(name, "5")
		}
	}
}

// apiServers returns the API server's address, if the config has an address and not a name.
func apiServers(config *rest.Config) []netip.Addr {
	if u, _, err := rest.DefaultServerUrlFor(config); err == nil {
		if addr, err := netip.ParseAddr(u.Hostname()); err == nil {
			return []netip.Addr{addr.WithZone("").Unmap()}
		}
	}
	return nil
}

// invalidFlags returns a usageError with a line for each error that is not nil, if there is one.
func invalidFlags(errs ...error) error {
	err := errors.Join(errs...)
	if err == nil {
		return nil
	}
	lines := strings.Split(err.Error(), "\n")
	return usageError{fmt.Errorf("%d invalid setting(s):\n  %s", len(lines), strings.Join(lines, "\n  "))}
}

// clientOf returns a client by a kubeconfig, or with the pod's credentials.
func clientOf(kubeconfig string) (*kube.Client, error) {
	config, err := restConfig(kubeconfig)
	if err != nil {
		return nil, err
	}
	return kube.New(config)
}
