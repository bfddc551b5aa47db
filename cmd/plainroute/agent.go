//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/plainroute/plainroute/controllers"
	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/dataplane"
	"github.com/plainroute/plainroute/pkg/inspect"
	"github.com/plainroute/plainroute/pkg/leases"
	"github.com/plainroute/plainroute/pkg/nodes"
	"github.com/plainroute/plainroute/pkg/nodestatus"
	"github.com/plainroute/plainroute/pkg/nslock"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/topology"
	"github.com/plainroute/plainroute/pkg/web"
)

// agentFlags are the choices that concern the agent alone.
type agentFlags struct {
	networkFlags
	nodeName      string
	mode          string
	cniBinDir     string
	cniPluginsDir string
	cniConfig     string
	cniBefore     []string
	resolvConf    string
	metricsListen string
	resync        time.Duration
	nodeCondition bool
	startupTaint  string
	events        bool
	logFormat     string
	logLevel      string
}

func agentCommand() *cobra.Command {
	f := &agentFlags{}
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Keep this node's routes and CNI config in step with the Nodes",
		Long: `agent runs on every node. It watches the Nodes, keeps a route to every other
node's pod subnet in the kernel, and writes the CNI config once all is there.
It needs CAP_NET_ADMIN and the right to list and watch Nodes. When it stops,
everything stays as it is. A second agent in the same network namespace is
refused, whatever its folders: one router serves one cluster.

Each flag can also be given as an environment variable: --cluster-cidr as
PLAINROUTE_CLUSTER_CIDR, and so on.`,
		Example: `  # In a pod, with NODE_NAME from the downward API
  plainroute agent --cluster-cidr 10.244.0.0/16

  # By hand on a node, dual-stack
  plainroute agent --node-name node1 --kubeconfig /etc/kubernetes/kubelet.conf \
    --cluster-cidr 10.244.0.0/16,fd00:10:244::/48

  # On a router of the nodes' LAN, which is no node of the cluster
  plainroute agent --mode router --kubeconfig router.conf --cluster-cidr 10.244.0.0/16`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	fs := cmd.Flags()
	f.register(fs)
	fs.StringVar(&f.nodeName, "node-name", "", "name of our own Node (default: $NODE_NAME)")
	fs.StringVar(&f.mode, "mode", modeNode, "node, or router: routes to all Nodes' pods, on a machine that is no Node")
	f.declare(fs, "cni-conf-dir", "proc-sys", "listen")
	fs.StringVar(&f.cniPluginsDir, "cni-plugins-dir", "", "folder of files with one CNI plugin each, *.json or *.conf, that are called after plainroute's own, in the order of their names")
	fs.StringVar(&f.cniConfig, "cni-config", cniLink, "link: the CNI config is a symlink into the run folder; file: it is a regular file, which service meshes and meta plugins can read from the CNI folder alone")
	registerBefore(fs, &f.cniBefore)
	fs.StringVar(&f.cniBinDir, "cni-bin-dir", "/opt/cni/bin", "folder from which the container runtime executes CNI plugins; without those that pods take, no CNI config is written (\"\": not looked at)")
	registerResolvConf(fs, &f.resolvConf)
	fs.StringVar(&f.metricsListen, "metrics-listen", "", "one more address for /metrics, for Prometheus to reach")
	fs.DurationVar(&f.resync, "resync", time.Minute, "period of the slow audit, which heals what the kernel does not announce")
	fs.BoolVar(&f.nodeCondition, "node-condition", false, "once ready, keep the condition NetworkUnavailable of our own Node False")
	fs.StringVar(&f.startupTaint, "startup-taint", "", "once ready, remove the taint of this key from our own Node")
	fs.BoolVar(&f.events, "events", true, "tell of this node's faults by Events of its Node")
	fs.StringVar(&f.logFormat, "log-format", "text", "text or json")
	fs.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	offer(cmd, "mode", modeNode, modeRouter)
	offer(cmd, "cni-config", cniLink, cniFile)
	offer(cmd, "masquerade", "true", "false", "ipv4", "ipv6")
	offer(cmd, "log-format", "text", "json")
	offer(cmd, "log-level", "debug", "info", "warn", "error")
	return cmd
}

func (f *agentFlags) run(cmd *cobra.Command) error {
	opts, err := f.validate(cmd)
	if err != nil {
		return err
	}
	config, err := restConfig(f.kubeconfig)
	if err != nil {
		return err
	}
	opts.APIServers = apiServers(config)
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if err := forgetStartUp(); err != nil {
		ctrl.Log.V(1).Info("Memory of starting is kept", "why", err.Error())
	}
	store := f.store()
	lock, err := f.lock(cmd.Context(), &store)
	if err != nil {
		return err
	}
	defer store.Lock.Close()
	if lock != nil {
		defer lock.Close()
	}
	store.RemoveTemporary()
	kernel, err := dataplane.New(f.hostConfig(store))
	if err != nil {
		return err
	}
	kernel.Sweep()
	return errors.Join(f.manage(cmd.Context(), config, opts, kernel, lock == nil), kernel.Close())
}

// store says where our CNI config and what belongs to it is.
func (f *agentFlags) store() cni.Store {
	return cni.Store{ConfDir: f.cniConfDir, RunDir: f.runDir, BinDir: f.cniBinDir, PluginsDir: f.cniPluginsDir}
}

// hostConfig says where what is ours on this host is.
func (f *agentFlags) hostConfig(store cni.Store) dataplane.Config {
	return dataplane.Config{
		Bridge: f.bridge, ProcSys: f.procSys, CNI: store,
		ResolvConf: f.resolvConf, ResolvConfNeeded: f.resolvConf != defaultResolvConf,
	}
}

// gcPercent trades a little CPU for memory: among 5,000 Nodes the peak is 44 MiB
// instead of the 47 of Go's default, on a program that is idle nearly always.
const gcPercent = 50

// validate lists every fault of every flag at once.
func (f *agentFlags) validate(cmd *cobra.Command) (topology.Options, error) {
	faults := environment(cmd.Flags())
	opts, more := f.options()
	faults = append(append(faults, more...), f.wrong(cmd.Flags())...)
	for _, err := range []error{
		f.checkMode(&opts), checkPath("resolv-conf", f.resolvConf), checkBinDir(f.cniBinDir), f.checkChaining(&opts),
		checkListen("metrics-listen", f.metricsListen), checkResync(f.resync),
		f.checkNodeStatus(),
	} {
		if err != nil {
			faults = append(faults, err)
		}
	}
	faults = append(faults, f.setUpLog()...)
	return opts, faultsError(faults)
}

// checkBinDir lets the operator name no folder.
func checkBinDir(path string) error {
	if path == "" {
		return nil
	}
	return checkPath("cni-bin-dir", path)
}

// checkNodeStatus returns an error if a router is to write to a Node, or for an invalid taint key.
func (f *agentFlags) checkNodeStatus() error {
	switch {
	case f.mode == modeRouter && (f.nodeCondition || f.startupTaint != ""):
		return errors.New("--node-condition, --startup-taint: a router has no Node")
	case f.startupTaint == "":
		return nil
	}
	if faults := validation.IsQualifiedName(f.startupTaint); len(faults) > 0 {
		return fmt.Errorf("--startup-taint: %q is no key of a taint: %s", f.startupTaint, faults[0])
	}
	return nil
}

const (
	cniLink = "link"
	cniFile = "file"
)

// checkChaining settles what other programs may do with our CNI config.
func (f *agentFlags) checkChaining(opts *topology.Options) error {
	opts.ConfigFile, opts.ConfigsBefore = f.cniConfig == cniFile, f.cniBefore
	if f.cniConfig != cniLink && f.cniConfig != cniFile {
		return fmt.Errorf("--cni-config: %q is neither link nor file", f.cniConfig)
	}
	if f.cniPluginsDir != "" {
		if err := checkPath("cni-plugins-dir", f.cniPluginsDir); err != nil {
			return err
		}
	}
	return checkBefore(f.cniBefore)
}

const (
	modeNode   = "node"
	modeRouter = "router"
)

// checkMode settles who we are.
func (f *agentFlags) checkMode(opts *topology.Options) error {
	name := f.nodeName
	if name == "" {
		name = os.Getenv("NODE_NAME")
	}
	switch {
	case f.mode == modeRouter && f.nodeName != "":
		return errors.New("--node-name: a router has no Node; leave it out, or --mode router")
	case f.mode == modeRouter:
		opts.Router = true
		return nil
	case f.mode != modeNode:
		return fmt.Errorf("--mode: %q is neither node nor router", f.mode)
	case name == "":
		return errors.New("--node-name is missing, and $NODE_NAME is not set")
	}
	opts.NodeName = name
	return nil
}

// setUpLog sends the logs of all libraries to standard error in one format.
func (f *agentFlags) setUpLog() []error {
	var faults []error
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		faults = append(faults, fmt.Errorf("--log-level: %q is none of debug, info, warn, error", f.logLevel))
	}
	options := &slog.HandlerOptions{Level: level}
	var handler slog.Handler
	switch f.logFormat {
	case "text":
		handler = slog.NewTextHandler(os.Stderr, options)
	case "json":
		handler = slog.NewJSONHandler(os.Stderr, options)
	default:
		faults = append(faults, fmt.Errorf("--log-format: %q is neither text nor json", f.logFormat))
	}
	if len(faults) > 0 {
		return faults
	}
	logger := logr.FromSlogHandler(handler)
	ctrl.SetLogger(logger)
	klog.SetLogger(logger)
	return nil
}

// manage runs the loop and the servers until ctx ends. Nothing is taken down at
// the end: a restart or an upgrade cuts no traffic.
func (f *agentFlags) manage(ctx context.Context, config *rest.Config, opts topology.Options, kernel *dataplane.Kernel, unlocked bool) error {
	source, err := nodes.New(config, f.ignoreNodesSelector)
	if err != nil {
		return err
	}
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:  runtime.NewScheme(),
		Metrics: metricsserver.Options{BindAddress: "0"}, // served by us, beside /status
	})
	if err != nil {
		return fmt.Errorf("making the manager: %w", err)
	}
	source.Own = opts.NodeName
	board, build := &status.Latest{}, controllers.Build{Version: version, Revision: revision}
	reconciler := &controllers.NodeReconciler{
		Options: opts, Nodes: source, Dataplane: kernel, Watcher: kernel, Resync: f.resync,
		Board: board, Metrics: controllers.NewMetrics(metrics.Registry, build, board, source.Health), Version: version,
	}
	if err := f.addWriters(reconciler, config); err != nil {
		return err
	}
	if !opts.Router {
		reconciler.ConfigPath = filepath.Join(f.cniConfDir, topology.Conflist)
	}
	if err := reconciler.SetupWithManager(mgr); err != nil {
		return fmt.Errorf("setting up the controller: %w", err)
	}
	if err := f.serve(ctx, mgr, reconciler, source); err != nil {
		return err
	}
	if err := f.collectLeases(mgr, opts, kernel); err != nil {
		return err
	}
	if unlocked {
		seek := manager.RunnableFunc(func(ctx context.Context) error { return nslock.Seek(ctx, f.self()) })
		if err := mgr.Add(seek); err != nil {
			return err
		}
	}
	return mgr.Start(ctx)
}

// collectLeases has the addresses of pods that are gone given back; a router has no pods.
func (f *agentFlags) collectLeases(mgr manager.Manager, opts topology.Options, kernel *dataplane.Kernel) error {
	if opts.Router {
		return nil
	}
	return mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		host, err := inspect.New()
		if err != nil {
			return err
		}
		defer host.Close()
		collector := &leases.Collector{
			Store: cni.Store{RunDir: f.runDir}, Host: host, Bridge: f.bridge, LinkChanges: kernel.LinkChanges, Log: ctrl.Log.WithName("leases"),
		}
		return collector.Run(ctx)
	}))
}

// addWriters adds the writers of the condition, the taint and Events that the flags ask for. A router has
// no Node for Events.
func (f *agentFlags) addWriters(r *controllers.NodeReconciler, config *rest.Config) error {
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
	return nil
}

// serve opens the listeners at once, so that a taken port is an error at start.
func (f *agentFlags) serve(ctx context.Context, mgr manager.Manager, r *controllers.NodeReconciler, source *nodes.Source) error {
	api := func() status.API { return controllers.APIStatus(source.Health()) }
	handlers := map[string]*status.Server{
		f.listen:        {Latest: r.Board, Healthy: r.Healthy, Metrics: metrics.Registry, Status: true, API: api, Observe: f.look, Page: web.NodePage},
		f.metricsListen: {Metrics: metrics.Registry},
	}
	if f.metricsListen == f.listen {
		handlers = map[string]*status.Server{f.listen: handlers[f.listen]}
	}
	for addr, s := range handlers {
		if addr == "" {
			continue
		}
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
		if err != nil {
			return fmt.Errorf("listening for probes and metrics: %w", err)
		}
		if err := mgr.Add(&manager.Server{Name: "http", Server: s.HTTP(), Listener: status.Bounded(listener)}); err != nil {
			return err
		}
	}
	return nil
}

// look reads the host for who asks, without the lock that only writers need.
func (f *agentFlags) look() (topology.State, error) {
	return look(f.hostConfig(f.store()))
}
