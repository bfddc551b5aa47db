package main

import (
	"cmp"

	"github.com/spf13/pflag"

	"github.com/plainroute/plainroute/pkg/topology"
)

// nodeFlags are the places on a node that commands share: the agent uses them, other commands read
// them. Each command declares those that it needs.
type nodeFlags struct{ bridge, runDir, cniConfDir, procSys, listen string }

// A nodeFlag is one of them: its default, its help, and the check of its value.
type nodeFlag struct {
	value          *string
	standard, help string
	check          func(name, value string) error
}

func (f *nodeFlags) table() map[string]nodeFlag {
	return map[string]nodeFlag{
		"bridge":       {&f.bridge, "", "name of the pods' bridge (default: the name in the agent's report, our CNI config or our table, else " + topology.Bridge + ")", checkBridge},
		"run-dir":      {&f.runDir, "/run/plainroute", "folder of node-local state, empty after a reboot", checkPath},
		"cni-conf-dir": {&f.cniConfDir, "/etc/cni/net.d", "folder from which the container runtime reads CNI configs", checkPath},
		"proc-sys":     {&f.procSys, "/proc/sys", "root of the kernel's settings; in a pod, the host's mount", checkPath},
		"listen":       {&f.listen, "127.0.0.1:9472", "address of the agent's /healthz, /readyz, /status and /metrics", checkListen},
	}
}

// declare adds flags by name. A field that has a value already has that as its default.
func (f *nodeFlags) declare(fs *pflag.FlagSet, names ...string) {
	all := f.table()
	for _, name := range names {
		flag := all[name]
		fs.StringVar(flag.value, name, cmp.Or(*flag.value, flag.standard), flag.help)
	}
}

// wrong returns an error for each invalid flag of those that a command has declared.
func (f *nodeFlags) wrong(fs *pflag.FlagSet) (faults []error) {
	all := f.table()
	fs.VisitAll(func(given *pflag.Flag) {
		flag, ok := all[given.Name]
		if !ok || given.Name == "bridge" && *flag.value == "" && given.DefValue == "" {
			return
		}
		if err := flag.check(given.Name, *flag.value); err != nil {
			faults = append(faults, err)
		}
	})
	return faults
}
