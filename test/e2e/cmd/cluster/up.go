package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/plainroute/plainroute/test/cluster/sandbox"
	"github.com/plainroute/plainroute/test/e2e/cluster"
)

const (
	// inSandbox is where a cluster keeps its files: in memory, and gone with the sandbox.
	inSandbox = "/run/cluster"
	// cgroupVariable carries the name of the cluster's cgroups into the sandbox.
	cgroupVariable = "PLAINROUTE_CLUSTER_CGROUP"
	pidName        = "pid"
)

func upFolder(bin string) string { return filepath.Join(bin, "e2e", "up") }

type options struct {
	nodes     int
	proxyMode string
	images    []string
	logs      string
}

func (o *options) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.IntVar(&o.nodes, "nodes", 3, "how many nodes there are at the start")
	flags.StringVar(&o.proxyMode, "proxy-mode", "nftables", "kube-proxy's: nftables or iptables")
	flags.StringSliceVar(&o.images, "image", nil, "image archives that all nodes have (default: bin/plainroute-image.tar and all in bin/e2e/images)")
	flags.StringVar(&o.logs, "logs", "", "folder for the components' logs (default: bin/e2e/logs)")
}

// config fills in the defaults.
func (o *options) config(bin string) (cluster.Config, error) {
	c := cluster.Config{
		Dir: inSandbox, Logs: o.logs, Bin: bin, Nodes: o.nodes, ProxyMode: o.proxyMode, Images: o.images,
		Cgroup: os.Getenv(cgroupVariable), Say: func(line string) { fmt.Fprintln(os.Stderr, line) },
	}
	if o.proxyMode != "nftables" && o.proxyMode != "iptables" {
		return c, fmt.Errorf("--proxy-mode: %q is neither nftables nor iptables", o.proxyMode)
	}
	if o.nodes < 1 || o.nodes > 100 {
		return c, errors.New("--nodes: 1 to 100 are possible")
	}
	if c.Logs == "" {
		c.Logs = filepath.Join(bin, "e2e", "logs")
	}
	var err error
	if c.Logs, err = filepath.Abs(c.Logs); err != nil {
		return c, err
	}
	if c.Images == nil {
		if c.Images, err = filepath.Glob(filepath.Join(bin, "e2e", "images", "*.tar")); err != nil {
			return c, err
		}
		if product := filepath.Join(bin, "plainroute-image.tar"); exists(product) {
			c.Images = append(c.Images, product)
		}
	}
	for i, image := range c.Images {
		if c.Images[i], err = filepath.Abs(image); err != nil {
			return c, err
		}
	}
	return c, c.Check()
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// enter is sandbox.Enter with a janitor for what outlives a sandbox.
func enter(onKept func(pid int) error, files ...*os.File) (*sandbox.Box, int, error) {
	if !sandbox.Outside() {
		return sandbox.Enter(nil)
	}
	name := "plainroute-e2e-" + strconv.Itoa(os.Getpid())
	if err := os.Setenv(cgroupVariable, name); err != nil {
		return nil, failed, err
	}
	janitor, err := cluster.StartJanitor(name)
	if err != nil {
		return nil, failed, err
	}
	kept := false
	box, code, err := sandbox.Enter(func(pid int) error {
		kept = true
		return onKept(pid)
	}, append([]*os.File{janitor.Pipe}, files...)...)
	if !kept {
		err = errors.Join(err, janitor.Wait())
	}
	return box, code, err
}

func runCommand(code *int) *cobra.Command {
	o := &options{}
	cmd := &cobra.Command{
		Use: "run -- COMMAND...", Short: "Run a command with a cluster, which ends with it", Args: cobra.MinimumNArgs(1),
		Long: `run makes a cluster, runs a command in the control plane's network, with KUBECONFIG,
E2E_NODES ("cluster node") and E2E_OUTSIDE ("cluster outside --") set and kubectl in
the PATH, and takes everything down, also when it is interrupted or killed.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			bin, err := binFolder()
			if err != nil {
				return err
			}
			config, err := o.config(bin)
			if err != nil {
				return err
			}
			box, exit, err := enter(nil)
			if box == nil {
				*code = exit
				return err
			}
			*code, err = run(cmd.Context(), config, args)
			if err != nil || *code != 0 {
				fmt.Fprintln(os.Stderr, "cluster: the components' logs are in", config.Logs)
			}
			return err
		},
	}
	o.register(cmd)
	return cmd
}

// up starts the cluster and listens on a socket.
func up(ctx context.Context, config cluster.Config, socket string) (*cluster.Cluster, error) {
	if err := os.RemoveAll(config.Logs); err != nil {
		return nil, err
	}
	c, err := cluster.Up(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("%w\nthe components' logs are in %s", err, config.Logs)
	}
	return c, c.Serve(ctx, socket)
}

// interruptLimit is what a command is given to end after Ctrl-C.
const interruptLimit = 30 * time.Second

func run(ctx context.Context, config cluster.Config, args []string) (int, error) {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	socket := filepath.Join(inSandbox, "control.sock")
	c, err := up(ctx, config, socket)
	if err != nil {
		return failed, err
	}
	self, err := os.Executable()
	if err != nil {
		return failed, err
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = interruptLimit
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig(), socketVariable+"="+socket, "E2E_NODES="+self+" node",
		"E2E_OUTSIDE="+self+" outside --",
		"PATH="+strings.Join([]string{filepath.Join(config.Bin, "e2e"), filepath.Join(config.Bin, "tools"), os.Getenv("PATH")}, ":"))
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode(), nil
	}
	return 0, err
}

func upCommand(code *int) *cobra.Command {
	o := &options{}
	cmd := &cobra.Command{
		Use: "up", Short: "Start a cluster that stays up", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			bin, err := binFolder()
			if err != nil {
				return err
			}
			config, err := o.config(bin)
			if err != nil {
				return err
			}
			if sandbox.Outside() {
				*code, err = upOutside(upFolder(bin))
				return err
			}
			return upInside(cmd.Context(), config, upFolder(bin))
		},
	}
	o.register(cmd)
	return cmd
}

// upOutside takes a port of this machine for the API server: inside there is another loopback.
func upOutside(dir string) (int, error) {
	if running(dir) {
		return failed, fmt.Errorf("a cluster is up already, see %s; `cluster down` takes it down", dir)
	}
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return failed, err
	}
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return failed, err
	}
	file, err := listener.File()
	if err != nil {
		return failed, err
	}
	_, code, err := enter(func(pid int) error {
		return os.WriteFile(filepath.Join(dir, pidName), []byte(strconv.Itoa(pid)), 0o644)
	}, file)
	return code, err
}

func upInside(ctx context.Context, config cluster.Config, dir string) error {
	box, _, err := sandbox.Enter(nil)
	if err != nil {
		return err
	}
	if box == nil { // PID 1 has done its part
		return nil
	}
	c, err := up(ctx, config, filepath.Join(dir, "control.sock"))
	if err != nil {
		return err
	}
	listener, err := net.FileListener(box.Files[1])
	if err != nil {
		return err
	}
	go relay(listener, net.TCPAddrFromAddrPort(cluster.APIServer()))
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := writeKubeconfig(c.Kubeconfig(), kubeconfig, listener.Addr().String()); err != nil {
		return err
	}
	fmt.Printf("The cluster is up. Nodes are not Ready until a network is installed.\n\n  export KUBECONFIG=%s\n  %s get nodes\n\n`make cluster-down` takes it down.\n",
		kubeconfig, filepath.Join(config.Bin, "e2e", "kubectl"))
	if err := box.Keep(); err != nil {
		return err
	}
	select {} // until PID 1 is killed
}

func writeKubeconfig(from, to, address string) error {
	config, err := clientcmd.LoadFromFile(from)
	if err != nil {
		return err
	}
	for _, one := range config.Clusters {
		one.Server = "https://" + address
	}
	return clientcmd.WriteToFile(*config, to)
}

// relay carries connections to a port of the machine into the sandbox.
func relay(listener net.Listener, to *net.TCPAddr) {
	for {
		outer, err := listener.Accept()
		if err != nil {
			return
		}
		go carry(outer, to)
	}
}

func carry(outer net.Conn, to *net.TCPAddr) {
	defer outer.Close()
	inner, err := net.DialTCP("tcp", nil, to)
	if err != nil {
		return
	}
	defer inner.Close()
	go func() {
		_, _ = io.Copy(inner, outer)
		_ = inner.CloseWrite()
	}()
	_, _ = io.Copy(outer, inner)
}

// running tells whether the cluster noted in a folder lives.
func running(dir string) bool {
	pid, err := notedPID(dir)
	return err == nil && unix.Kill(pid, 0) == nil
}

func notedPID(dir string) (int, error) {
	content, err := os.ReadFile(filepath.Join(dir, pidName))
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(string(content))
	if err != nil {
		return 0, err
	}
	// Numbers are used again: it must be this very program.
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		return 0, err
	}
	at, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil || !os.SameFile(self, at) && !strings.Contains(exeOf(pid), "cluster") {
		return 0, unix.ESRCH
	}
	return pid, nil
}

// exeOf also names a program that was built over since.
func exeOf(pid int) string {
	name, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return ""
	}
	return filepath.Base(name)
}

func downCommand() *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "Take down the cluster of `cluster up`", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			bin, err := binFolder()
			if err != nil {
				return err
			}
			dir := upFolder(bin)
			pid, err := notedPID(dir)
			if err != nil {
				fmt.Println("no cluster is up")
				return os.RemoveAll(dir)
			}
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				return err
			}
			for deadline := time.Now().Add(time.Minute); running(dir); time.Sleep(20 * time.Millisecond) {
				if time.Now().After(deadline) {
					return fmt.Errorf("process %d was killed and is still there", pid)
				}
			}
			fmt.Println("the cluster is down")
			return os.RemoveAll(dir)
		},
	}
}
