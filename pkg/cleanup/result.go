package cleanup

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plainroute/plainroute/pkg/cni"
	"github.com/plainroute/plainroute/pkg/plan"
	"github.com/plainroute/plainroute/pkg/status"
	"github.com/plainroute/plainroute/pkg/text"
	"github.com/plainroute/plainroute/pkg/topology"
)

// Result is what a cleanup did, or would do.
type Result struct {
	DryRun  bool       `json:"dryRun,omitempty"`
	Removed []plan.Key `json:"removed"`
	// Kept is what stays of ours, and why.
	Kept []Kept `json:"kept,omitempty"`
	// Undetached counts the dead sandboxes that the runtime has not detached yet.
	Undetached int `json:"undetached,omitempty"`
	// Settings are those that the agent may have made. They have no mark, so their former values
	// are not known.
	Settings []string `json:"settings,omitempty"`
	Refusals []string `json:"refusals,omitempty"`
}

// KindFile is the kind of files other than CNI configs.
const KindFile plan.Kind = "file"

// kinds are those of marked objects, in the order in which they are printed.
func kinds() []plan.Kind {
	return []plan.Kind{plan.KindCNI, plan.KindRoute, plan.KindFDB, plan.KindNeighbor, plan.KindAddress, plan.KindTunnel, plan.KindBridge, plan.KindTable, KindFile}
}

// Kept is something of ours that stays.
type Kept struct {
	plan.Key
	Why string `json:"why"`
}

// refuse adds why the cleanup is refused, and returns ErrRefused with it, or nil for "".
func (r *Result) refuse(why string) error {
	if why == "" {
		return nil
	}
	r.Refusals = append(r.Refusals, why)
	return fmt.Errorf("%w: %s", ErrRefused, why)
}

// MarshalJSON adds what identifies the document, and renders no removals as an empty list.
func (r Result) MarshalJSON() ([]byte, error) {
	type plain Result
	r.Removed = append([]plan.Key{}, r.Removed...)
	return json.Marshal(struct {
		metav1.TypeMeta `json:",inline"`
		plain
	}{status.TypeMeta("CleanupReport"), plain(r)})
}

// inventory lists all of ours: kernel objects in an operator's syntax, and files.
func inventory(s topology.State, files []string) []plan.Key {
	var all []plan.Key
	for _, x := range plan.Diff(topology.State{}, s).Except(plan.KindCNI) {
		all = append(all, plan.Key{Kind: x.Kind(), Name: x.Object.String()})
	}
	for _, path := range files {
		kind := KindFile
		if strings.Contains(path, topology.Conflist) || strings.Contains(path, topology.Gate) {
			kind = plan.KindCNI
		}
		all = append(all, plan.Key{Kind: kind, Name: path})
	}
	slices.SortStableFunc(all, func(a, b plan.Key) int { return slices.Index(kinds(), a.Kind) - slices.Index(kinds(), b.Kind) })
	return all
}

func without(before, after []plan.Key) []plan.Key {
	still := make(map[plan.Key]bool, len(after))
	for _, t := range after {
		still[t] = true
	}
	return slices.DeleteFunc(before, func(t plan.Key) bool { return still[t] })
}

func (s observation) kept(store cni.Store) []Kept {
	if !s.attached {
		return nil
	}
	all := []Kept{{plan.Key{Kind: plan.KindBridge, Name: s.Bridge}, fmt.Sprintf("pods are attached to it (ports: %d)", s.ports)}}
	for _, path := range s.keptFiles(store) {
		all = append(all, Kept{plan.Key{Kind: KindFile, Name: path}, "the next agent would otherwise give the addresses of these pods to others"})
	}
	return all
}

// settings returns those with a value that the agent sets and that is not the kernel's default
// (those of the neighbor tables: arp_tbl of net/ipv4/arp.c, nd_tbl of net/ipv6/ndisc.c). The
// settings of a device follow from those of all, except for the filters that tunnels need loose.
func settings(s topology.State) []string {
	made := map[string]string{topology.SysctlForward4: "1", topology.SysctlForward6: "1", topology.SysctlBridgeNF4: "1", topology.SysctlBridgeNF6: "1"}
	ours := []string{topology.ConfSysctl(4, topology.Tunnel4, "rp_filter"), topology.ConfSysctl(4, topology.Tunnel6, "rp_filter")}
	var all []string
	for _, path := range slices.Sorted(maps.Keys(s.Sysctls)) {
		value := s.Sysctls[path]
		raised := strings.Contains(path, "/gc_thresh") && !slices.Contains([]string{"128", "512", "1024"}, value)
		loosened := len(s.Tunnels) > 0 && strings.HasSuffix(path, "/rp_filter") && value == "2" && !slices.Contains(ours, path)
		if value == made[path] || raised || loosened || strings.HasSuffix(path, "/accept_ra") && value == "2" {
			all = append(all, path+"="+value)
		}
	}
	return all
}

// maxRows is how many objects of one kind get a row each; of more, the first is printed with their
// number.
const maxRows = 20

// Print writes the result as a table, with notes for the operator.
func (r Result) Print(w io.Writer) error {
	verb := map[bool]string{false: "removed", true: "would be removed"}[r.DryRun]
	if len(r.Removed) == 0 {
		fmt.Fprintf(w, "Nothing %s.\n", verb)
	} else {
		r.table(w, strings.ToUpper(verb))
	}
	for _, k := range r.Kept {
		fmt.Fprintf(w, "%s %s stays: %s.\n", k.Kind, k.Name, k.Why)
	}
	if r.Undetached > 0 {
		fmt.Fprintf(w, "The container runtime has not detached all dead sandboxes (%d): when it does, the folder %s may appear again; repeat the cleanup then.\n",
			r.Undetached, topology.IPAMDir)
	}
	if len(r.Settings) > 0 {
		fmt.Fprintf(w, "Settings stay as they are, because their former values are not known: %s.\n", strings.Join(r.Settings, ", "))
	}
	for _, why := range r.Refusals { // of a dry run: else there is no Result to print
		fmt.Fprintf(w, "It would be refused now: %s.\n", why)
	}
	_, err := fmt.Fprintln(w, leftByOthers)
	return err
}

// leftByOthers is what can't be distinguished from the objects of other networks.
const leftByOthers = "Not ours to remove: the plugins' programs, and what portmap made for host ports of pods that were never detached (iptables chains CNI-*)."

func (r Result) table(w io.Writer, title string) {
	var rows [][]string
	for _, kind := range kinds() {
		some := slices.DeleteFunc(slices.Clone(r.Removed), func(t plan.Key) bool { return t.Kind != kind })
		if n := len(some); n > maxRows {
			rows = append(rows, []string{string(kind), some[0].Name + ", " + text.More(n-1, ""), strconv.Itoa(n)})
			continue
		}
		for _, t := range some {
			rows = append(rows, []string{string(kind), t.Name, "1"})
		}
	}
	text.Table(w, text.Gap, []string{title, "NAME", "COUNT"}, rows, nil)
}
