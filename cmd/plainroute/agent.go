//go:build linux

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/plainroute/plainroute/controllers"
	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/dataplane"
	"github.com/plainroute/plainroute/pkg/inspect"
	"github.com/plainroute/plainroute/pkg/leases"
	"github.com/plainroute/plainroute/pkg/nodes"
	"github.com/plainroute/plainroute/pkg/nodestatus"
	"github.com/plainroute/plainroute/pkg/nslock"
	"github.com/plainroute/plainroute/pkg/servicecidr"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
)

type agentFlags struct {
	networkFlags
	mode, cniPluginsDir, cniConfig, resolvConf, metricsListen, pprofListen, startupTaint, logFormat, logLevel string

	level                 slog.Level
	resync                time.Duration
	nodeCondition, events bool
	serviceCIDRObjects    bool
}

func agentCommand() *cobra.Command {
	f := &agentFlags{}
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Keep this node's routes and CNI config in step with the Nodes",
		Long: `agent runs on every node. It watches the Nodes, keeps a route to every other
node's pod subnet in the kernel, and writes the CNI config once all routes are
there. It needs CAP_NET_ADMIN and the right to list and watch Nodes. When it
stops, everything stays as it is. It refuses to start beside another agent in
the same network namespace, whatever its folders: one router serves one cluster.

Each flag can also be given as an environment variable: --cluster-cidr as
PLAINROUTE_CLUSTER_CIDR, and so on.`,
		Example: `  # In a pod, with NODE_NAME from the downward API
  plainroute agent --cluster-cidr 10.244.0.0/16

  # By hand on a node, dual-stack
  plainroute agent --node-name node1 --kubeconfig /etc/kubernetes/kubelet.conf \
    --cluster-cidr 10.244.0.0/16,fd00:10:244::/48

  # On a router of the nodes' LAN, which is not a node of the cluster
  plainroute agent --mode router --kubeconfig router.conf --cluster-cidr 10.244.0.0/16`,
		RunE: f.run,
	}
	f.register(cmd)
	return cmd
}

func (f *agentFlags) register(cmd *cobra.Command) {
	f.networkFlags.register(cmd)
	fs := cmd.Flags()
	choose(cmd, &f.mode, "mode", "", "node, or router: install routes to all Nodes' pods on a machine that is not a Node", modeNode, modeRouter)
	f.declare(fs, "cni-conf-dir", "proc-sys", "listen", "cni-bin-dir", "node-name", beforeFlag)
	fs.StringVar(&f.cniPluginsDir, "cni-plugins-dir", "", "folder of files with one CNI plugin each, *.json or *.conf, which are called after plainroute's own in the order of their names")
	choose(cmd, &f.cniConfig, "cni-config", "", "link: the CNI config is a symlink into the run folder; file: it is a regular file, which service meshes and meta plugins can read from the CNI folder alone", cniLink, cniFile)
	fs.StringVar(&f.resolvConf, "resolv-conf", defaultResolvConf, "file with the node's nameservers, which no pod subnet may cover; in a pod, the host's mount, because the pod's own file is as old as the pod")
	fs.StringVar(&f.metricsListen, "metrics-listen", "", "an additional address for /metrics, for Prometheus to reach")
	fs.StringVar(&f.pprofListen, "pprof-listen", "", "a loopback address for /debug/pprof/, Go's profiles of the agent, such as 127.0.0.1:6060; empty: none")
	fs.DurationVar(&f.resync, "resync", time.Minute, "interval of the full audit, which repairs what the kernel does not announce")
	fs.BoolVar(&f.nodeCondition, "node-condition", false, "once ready, keep the condition NetworkUnavailable of this agent's Node at False")
	fs.StringVar(&f.startupTaint, "startup-taint", "", "once ready, remove the taint with this key from this agent's Node")
	fs.BoolVar(&f.events, "events", true, "record this node's problems as Events on its Node")
	fs.BoolVar(&f.serviceCIDRObjects, "service-cidr-objects", false, "watch the cluster's ServiceCIDRs, whose ranges take the place of those of --service-cidr once they are read")
	choose(cmd, &f.logFormat, "log-format", "", "text or json", "text", "json")
	fs.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	offer(cmd, "log-level", "debug", "info", "warn", "error")
}

func (f *agentFlags) run(cmd *cobra.Command, _ []string) error {
	opts, err := f.validate(cmd)
	if err != nil {
		return err
	}
	ctx := f.withLog(cmd.Context())
	config, err := restConfig(f.kubeconfig)
	if err != nil {
		return err
	}
	opts.APIServers = apiServers(config)
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	host := f.hostConfig()
	lock, err := f.lock(ctx, &host.CNI)
	if err != nil {
		return err
	}
	defer host.CNI.Lock.Close()
	if lock != nil {
		defer lock.Close()
	}
	host.CNI.RemoveTemporary()
	kernel, err := dataplane.New(host)
	if err != nil {
		return err
	}
	kernel.Sweep()
	return errors.Join(f.manage(ctx, config, opts, kernel, lock == nil), kernel.Close())
}

func (f *agentFlags) hostConfig() dataplane.Config {
	config := f.nodeFlags.hostConfig()
	config.RouteTable = f.routeTable()
	config.CNI.BinDir, config.CNI.PluginsDir = f.cniBinDir, f.cniPluginsDir
	config.ResolvConf, config.ResolvConfNeeded = f.resolvConf, f.resolvConf != defaultResolvConf
	return config
}

const gcPercent = 35 // trades a little CPU for memory in a program that is idle nearly always

// validate returns one error for all invalid flags.
func (f *agentFlags) validate(cmd *cobra.Command) (topology.Options, error) {
	errs := environment(cmd.Flags())
	opts, more := f.options()
	opts.ConfigFile, opts.ConfigsBefore = f.cniConfig == cniFile, f.cniBefore
	if err := f.level.UnmarshalText([]byte(f.logLevel)); err != nil {
		errs = append(errs, oneOf("log-level", f.logLevel, "debug", "info", "warn", "error"))
	}
	errs = append(slices.Concat(errs, more, checkFlags(cmd.Flags())), f.checkMode(&opts), checkResync(f.resync), f.checkNodeStatus())
	return opts, invalidFlags(errs...)
}

// checkResync refuses an interval that loads the host, or that never comes.
func checkResync(d time.Duration) error { return inRange("resync", d, time.Second, 24*time.Hour) }

// checkNodeStatus returns an error if a router is to write to a Node, or for an invalid taint key.
func (f *agentFlags) checkNodeStatus() error {
	switch {
	case f.mode == modeRouter && (f.nodeCondition || f.startupTaint != ""):
		return errors.New("--node-condition, --startup-taint: a router has no Node")
	case f.startupTaint == "":
		return nil
	}
	if errs := validation.IsQualifiedName(f.startupTaint); len(errs) > 0 {
		return fmt.Errorf("--startup-taint: %q is an invalid taint key: %s", f.startupTaint, errs[0])
	}
	return nil
}

const (
	cniLink, cniFile     = "link", "file"
	modeNode, modeRouter = "node", "router"
)

// checkMode sets the name of our Node, or the mode of a router.
func (f *agentFlags) checkMode(opts *topology.Options) error {
	if opts.Router = f.mode == modeRouter; !opts.Router {
		opts.NodeName = cmp.Or(f.nodeName, os.Getenv("NODE_NAME"))
	}
	switch {
	case opts.Router && f.nodeName != "":
		return errors.New("--node-name: a router has no Node; leave it out, or --mode router")
	case opts.Router && opts.Encapsulates():
		return errors.New("--encapsulation: a router has no pod subnet, of which a tunnel's address would be; nodes reach each other by tunnels without it")
	case !opts.Router && opts.NodeName == "":
		return errors.New("--node-name is missing, and $NODE_NAME is not set")
	}
	return nil
}

// withLog adds a logger to the context, which writes to standard error, and has libraries use it.
func (f *agentFlags) withLog(ctx context.Context) context.Context {
	options := &slog.HandlerOptions{Level: f.level}
	logger := logr.FromSlogHandler(slog.NewTextHandler(os.Stderr, options))
	if f.logFormat == "json" {
		logger = logr.FromSlogHandler(slog.NewJSONHandler(os.Stderr, options))
	}
	klog.SetLogger(logger)
	return logr.NewContext(ctx, logger)
}

// manage runs the loop and the servers until ctx ends. It removes nothing at the end, so a restart
// or an upgrade cuts no traffic.
func (f *agentFlags) manage(ctx context.Context, config *rest.Config, opts topology.Options, kernel *dataplane.Kernel, unlocked bool) error {
	source, err := nodes.New(config, f.ignoreNodesSelector)
	if err != nil {
		return err
	}
	source.Own = opts.NodeName
	latest, registry, build := &status.Latest{}, newRegistry(), controllers.Build{Version: version, Revision: revision}
	saved := &savedNodes{store: cni.Store{RunDir: f.runDir}, source: source, latest: latest, log: logr.FromContextOrDiscard(ctx).WithName("nodes")}
	if saved.identity, err = f.identityOf(config, opts.NodeName); err != nil {
		return err
	}
	saved.restore()
	reconciler := &controllers.NodeReconciler{
		Options: opts, Nodes: source, Dataplane: kernel, Watcher: kernel, Resync: f.resync,
		Latest: latest, Metrics: controllers.NewMetrics(registry, build, latest, source.Health), Version: version,
	}
	if err := f.addClients(reconciler, config); err != nil {
		return err
	}
	if !opts.Router {
		reconciler.ConfigPath = filepath.Join(f.cniConfDir, topology.Conflist)
	}
	tasks, err := f.servers(ctx, reconciler, source, registry)
	if err != nil {
		return err
	}
	if !opts.Router { // which has no pods
		tasks = append(tasks, f.leaseCollector(kernel))
	}
	if unlocked {
		tasks = append(tasks, func(ctx context.Context) error { return nslock.Seek(ctx, f.self()) })
	}
	err = run(ctx, append(tasks, reconciler.Run, saved.run)...)
	saved.save()
	return err
}

// leaseCollector frees the addresses of pods that are gone.
func (f *agentFlags) leaseCollector(kernel *dataplane.Kernel) task {
	return func(ctx context.Context) error {
		host, err := inspect.New()
		if err != nil {
			return err
		}
		defer host.Close()
		collector := &leases.Collector{
			Store: cni.Store{RunDir: f.runDir}, Host: host, Bridge: f.bridge, LinkChanges: kernel.LinkChanges, Log: logr.FromContextOrDiscard(ctx).WithName("leases"),
		}
		return collector.Run(ctx)
	}
}

// addClients adds the writers of the condition, the taint and Events, and the source of ServiceCIDRs, that
// the flags ask for. A router has no Node for Events.
func (f *agentFlags) addClients(r *controllers.NodeReconciler, config *rest.Config) error {
	if f.nodeCondition || f.startupTaint != "" {
		writer, err := nodestatus.NewWriter(config, r.Options.NodeName, f.nodeCondition, f.startupTaint)
		if err != nil {
			return err
		}
		r.NodeStatus = writer
	}
	if f.events && !r.Options.Router {
		events, err := nodestatus.NewEvents(config, r.Options.NodeName)
		if err != nil {
			return err
		}
		r.Events = events
	}
	if f.serviceCIDRObjects {
		source, err := servicecidr.New(config, r.Options.ClusterCIDRs)
		if err != nil {
			return err
		}
		r.Services = source
	}
	return nil
}

// nodeCommands returns the commands that work on a node.
func nodeCommands() []*cobra.Command {
	return []*cobra.Command{agentCommand(), installCNICommand(), cleanupCommand(), responderCommand()}
}
