package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/plainroute/plainroute/test/e2e/kubelets"
	"github.com/plainroute/plainroute/test/sandbox"
)

const defaultNodes = 3

type options struct {
	nodes     int
	lans      int
	proxyMode string
	images    []string
	logs      string
}

func (o *options) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.IntVar(&o.nodes, "nodes", defaultNodes, "how many nodes there are at the start")
	flags.IntVar(&o.lans, "lans", 1, "1, or 2: nodes are in turn on one of two LANs with a router between them")
	flags.StringVar(&o.proxyMode, "proxy-mode", "nftables", "kube-proxy's: nftables or iptables")
	flags.StringSliceVar(&o.images, "image", nil, "image archives that all nodes have (default: bin/plainroute-image.tar and all in bin/e2e/images)")
	flags.StringVar(&o.logs, "logs", "", "folder for the components' logs (default: bin/e2e/logs)")
}

// config fills in the defaults.
func (o *options) config(bin string) (kubelets.Config, error) {
	c := kubelets.Config{
		Dir: inSandbox, Logs: o.logs, Bin: bin, Nodes: o.nodes, LANs: o.lans, ProxyMode: o.proxyMode, Images: o.images,
		Cgroup: os.Getenv(cgroupVariable),
	}
	if o.proxyMode != "nftables" && o.proxyMode != "iptables" {
		return c, fmt.Errorf("--proxy-mode: %q is neither nftables nor iptables", o.proxyMode)
	}
	if o.nodes < 1 || o.nodes > 100 {
		return c, errors.New("--nodes: 1 to 100 are possible")
	}
	if o.lans != 1 && o.lans != 2 {
		return c, errors.New("--lans: 1 or 2 are possible")
	}
	if c.Logs == "" {
		c.Logs = filepath.Join(bin, "e2e", "logs")
	}
	var err error
	if c.Logs, err = filepath.Abs(c.Logs); err != nil {
		return c, fmt.Errorf("--logs: %w", err)
	}
	if c.Images == nil {
		c.Images = defaultImages(bin)
	}
	for i, image := range c.Images {
		if c.Images[i], err = filepath.Abs(image); err != nil {
			return c, fmt.Errorf("--image: %w", err)
		}
	}
	return c, c.Check()
}

// defaultImages are the product's, where it is made, and those of the tests.
func defaultImages(bin string) []string {
	// The pattern is well-formed, and nothing else is an error.
	images, _ := filepath.Glob(filepath.Join(bin, "e2e", "images", "*.tar"))
	product := filepath.Join(bin, "plainroute-image.tar")
	if _, err := os.Stat(product); err == nil {
		images = append(images, product)
	}
	return images
}

// cgroupVariable carries the name of the cluster's cgroups into the sandbox.
const cgroupVariable = "PLAINROUTE_CLUSTER_CGROUP"

// enter is sandbox.Enter with a janitor for the cgroups that outlive a sandbox. onKept receives the
// processes that have to end: PID 1 of the sandbox and then the janitor.
func enter(nodes int, onKept func(first, janitor int) error, files ...*os.File) (*sandbox.Box, int, error) {
	if !sandbox.Outside() {
		return sandbox.Enter(nil)
	}
	if err := kubelets.Fit(nodes); err != nil {
		return nil, failed, err
	}
	janitor, err := kubelets.StartJanitor()
	if err != nil {
		return nil, failed, err
	}
	if err := os.Setenv(cgroupVariable, janitor.Cgroup()); err != nil {
		return nil, failed, fmt.Errorf("setting %s: %w", cgroupVariable, err)
	}
	kept := false
	box, code, err := sandbox.Enter(func(first int) error {
		kept = true
		return onKept(first, janitor.PID())
	}, append([]*os.File{janitor.Pipe}, files...)...)
	if !kept {
		err = errors.Join(err, janitor.Wait())
	}
	return box, code, err
}
