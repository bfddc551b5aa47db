package main

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/topology"
)

// nodeFlags are the places on a node that commands share: the agent uses them, other commands read
// them. Each command declares those that it needs.
type nodeFlags struct {
	bridge, runDir, cniConfDir, procSys, listen, cniBinDir, nodeName string
	cniBefore                                                        []string
}

const beforeFlag = "cni-config-before" // the only one with several values

const defaultResolvConf = "/etc/resolv.conf" // of resolv.conf(5); a pod has a copy from its creation

// declare adds flags by name. A field that has a value already has that as its default.
func (f *nodeFlags) declare(fs *pflag.FlagSet, names ...string) {
	bridge := "name of the pods' bridge"
	if f.bridge == "" {
		bridge += " (default: the name in the agent's report, our CNI config or our table, else " + topology.Bridge + ")"
	}
	all := map[string]struct {
		value          *string
		standard, help string
	}{
		"bridge":       {&f.bridge, "", bridge},
		"run-dir":      {&f.runDir, "/run/plainroute", "folder of node-local state, empty after a reboot"},
		"cni-conf-dir": {&f.cniConfDir, "/etc/cni/net.d", "folder from which the container runtime reads CNI configs"},
		"cni-bin-dir":  {&f.cniBinDir, "/opt/cni/bin", "folder from which the container runtime executes CNI plugins; without the plugins that pods need, the agent writes no CNI config (\"\": not checked)"},
		"node-name":    {&f.nodeName, "", "name of this node's Node (default: $NODE_NAME)"},
		"proc-sys":     {&f.procSys, "/proc/sys", "root of the kernel's settings; in a pod, the host's mount"},
		"listen":       {&f.listen, "127.0.0.1:9472", "address of the agent's /healthz, /readyz, /status and /metrics"},
	}
	for _, name := range names {
		if name == beforeFlag {
			fs.StringSliceVar(&f.cniBefore, name, nil, "names of other CNI configs that may come before ours, such as 00-multus.conf")
			continue
		}
		flag := all[name]
		fs.StringVar(flag.value, name, cmp.Or(*flag.value, flag.standard), flag.help)
	}
}

const valuesKey = "values" // annotates a flag with the only values that it takes

// choose declares a flag with a few values, of which the first one is the default.
func choose(cmd *cobra.Command, value *string, name, short, help string, values ...string) {
	cmd.Flags().StringVarP(value, name, short, values[0], help)
	cmd.Flags().Lookup(name).Annotations = map[string][]string{valuesKey: values}
	offer(cmd, name, values...)
}

// chooseOutput declares --output.
func chooseOutput(cmd *cobra.Command, value *string, first string) {
	choose(cmd, value, "output", "o", first+" or json", first, "json")
}

// offer registers the values that shells complete for a flag, instead of names of files.
func offer(cmd *cobra.Command, flag string, values ...string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // no such flag, or offered twice: any test of a command finds that
	}
}

// checkFlags returns an error for each flag whose value is invalid by itself.
func checkFlags(fs *pflag.FlagSet) []error {
	var errs []error
	fs.VisitAll(func(f *pflag.Flag) { errs = append(errs, checkFlag(f, f.Value.String())) })
	return errs
}

func checkFlag(f *pflag.Flag, value string) error {
	switch f.Name {
	case "run-dir", "cni-conf-dir", "proc-sys", "resolv-conf", "root", "cni-cache-dir", "cni-bin-dir", "cni-plugins-dir":
		required := f.Name != "cni-bin-dir" && f.Name != "cni-plugins-dir"
		if !filepath.IsAbs(value) && (required || value != "") {
			return fmt.Errorf("--%s: %q is not an absolute path", f.Name, value)
		}
	case "listen", "metrics-listen":
		return checkListen(f.Name, value)
	case "pprof-listen":
		return checkLoopback(f.Name, value)
	case beforeFlag:
		names, _ := f.Value.(pflag.SliceValue)
		for _, name := range names.GetSlice() {
			if err := cni.CheckBefore(name); err != nil {
				return fmt.Errorf("--%s: %w", f.Name, err)
			}
		}
	case "bridge":
		if value != "" || f.DefValue != "" {
			return checkBridge(value)
		}
	}
	if values := f.Annotations[valuesKey]; values != nil {
		return oneOf(f.Name, value, values...)
	}
	return nil
}

// checkBridge refuses invalid names of devices (dev_valid_name of net/core/dev.c).
func checkBridge(name string) error {
	if name == topology.Tunnel4 || name == topology.Tunnel6 {
		return fmt.Errorf("--bridge: %s is the name of a tunnel", name)
	}
	if name != "" && len(name) <= 15 && !strings.ContainsAny(name, "/ \t\n") && name != "." && name != ".." {
		return nil
	}
	return fmt.Errorf("--bridge: %q is not a valid device name: 1 to 15 characters without slashes and spaces", name)
}

// checkListen validates an address to listen on.
func checkListen(flag, value string) error {
	if value == "" {
		return nil
	}
	_, port, err := net.SplitHostPort(value)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("--%s: %q is not HOST:PORT such as 127.0.0.1:9472", flag, value)
	}
	return nil
}

// checkLoopback validates an address to listen on that other machines can't reach.
func checkLoopback(flag, value string) error {
	host, _, _ := net.SplitHostPort(value)
	if addr, err := netip.ParseAddr(host); value != "" && host != "localhost" && (err != nil || !addr.IsLoopback()) {
		return fmt.Errorf("--%s: %q is not a loopback address with a port, such as 127.0.0.1:6060", flag, value)
	}
	return checkListen(flag, value)
}

func oneOf(flag, value string, values ...string) error {
	if slices.Contains(values, value) {
		return nil
	}
	return fmt.Errorf("--%s: %q is not one of %s", flag, value, strings.Join(values, ", "))
}

func inRange[T cmp.Ordered](flag string, value, least, most T) error {
	if value < least || value > most {
		return fmt.Errorf("--%s: %v is not between %v and %v", flag, value, least, most)
	}
	return nil
}

func atLeast[T cmp.Ordered](flag string, value, least T) error {
	if value < least {
		return fmt.Errorf("--%s: %v is less than %v", flag, value, least)
	}
	return nil
}
