package doctor

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/plainroute/plainroute/pkg/problem"
)

// A manager is a program that configures each new device, by default those of pods too.
type manager struct {
	name    string
	runs    []string             // files, one of which exists while the program runs
	touches func(*Target) string // returns the setting that includes pods' devices, "" if none does
	remedy  string               // with BRIDGE for the bridge's name; "": dhcpcdRemedy
}

var managers = []manager{
	{"dhcpcd", []string{"/run/dhcpcd/pid", "/run/dhcpcd/master.pid", "/run/dhcpcd.pid"}, (*Target).dhcpcd, ""},
	{"ConnMan", []string{"/run/connman"}, (*Target).connman, "add veth and BRIDGE to NetworkInterfaceBlacklist below [General] in /etc/connman/main.conf (its default is vmnet,vboxnet,virbr,ifb,ve-,vb-), then systemctl restart connman"},
	{"wicked", []string{"/run/wicked"}, (*Target).wicked, "move that file out of /etc/sysconfig/network, then wicked ifreload all"},
	{"ifupdown", []string{"/run/network/ifstate", "/run/ifstate"}, (*Target).ifupdown, "narrow the pattern in that file to the node's own devices, such as /en* or eth0"},
	{"ifplugd", []string{"/etc/default/ifplugd"}, (*Target).ifplugd, "name the node's own devices in HOTPLUG_INTERFACES of /etc/default/ifplugd instead of all"},
	{"cloud-init", []string{"/run/cloud-init"}, (*Target).cloudInit, "take hotplug out of updates.network.when in that file, unless network cards are added while the machine runs; else it applies the network's config again for each pod's device"},
}

// otherManagers covers all besides systemd-networkd and NetworkManager, which have more settings.
func (t *Target) otherManagers() []problem.Problem {
	var found []problem.Problem
	for _, m := range managers {
		if !slices.ContainsFunc(m.runs, t.exists) {
			continue
		}
		if reason := m.touches(t); reason != "" {
			remedy := cmp.Or(strings.ReplaceAll(m.remedy, "BRIDGE", t.Bridge), t.dhcpcdRemedy())
			found = append(found, Warn(m.name+" runs, and configures the devices of pods", reason, remedy)...)
		}
	}
	return found
}

// veth is a name as the stock plugin's of a pod's port. Bridges are ignored unless a setting names them.
const veth = "veth0a1b2c3d"

// words returns the lines of a file, split into words and without comments.
func (t *Target) words(file string) [][]string {
	var all [][]string
	for _, line := range fileLines(t.Path(file)) {
		text, _, _ := strings.Cut(line, "#")
		if words := strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" \t,", r) }); len(words) > 0 {
			all = append(all, words)
		}
	}
	return all
}

const dhcpcdConf = "/etc/dhcpcd.conf"

// dhcpcd configures all devices, except denied ones and those missing from a list of allowed ones
// (dhcpcd.conf(5)). Lines below the first interface, ssid or profile apply to that one only.
func (t *Target) dhcpcd() string {
	lists := map[string][]string{}
	for _, line := range t.words(dhcpcdConf) {
		if slices.Contains([]string{"interface", "ssid", "profile"}, line[0]) {
			break
		}
		lists[line[0]] = append(lists[line[0]], line[1:]...)
	}
	allowed, denied := lists["allowinterfaces"], lists["denyinterfaces"]
	if matchesAny(veth, denied) || len(allowed) > 0 && !matchesAny(veth, allowed) {
		return ""
	}
	return fmt.Sprintf("denyinterfaces of %s has no veth*, and allowinterfaces does not leave them out", dhcpcdConf)
}

// dhcpcdRemedy adds the line at the top, because below an interface it would apply to that alone.
func (t *Target) dhcpcdRemedy() string {
	line := "denyinterfaces veth* " + t.Bridge
	if info, err := os.Stat(t.Path(dhcpcdConf)); err != nil || info.Size() == 0 {
		return fmt.Sprintf("`echo '%s' >%s`, then systemctl restart dhcpcd", line, dhcpcdConf)
	}
	return fmt.Sprintf("`sed -i '1i %s' %s`, then systemctl restart dhcpcd", line, dhcpcdConf)
}

// connman configures all devices whose names don't begin with a word of its list (connman.conf(5)).
func (t *Target) connman() string {
	const key = "NetworkInterfaceBlacklist"
	file, list := "its default", "vmnet,vboxnet,virbr,ifb,ve-,vb-"
	if s, written := lastSetting(readSettings([]string{t.Path("/etc/connman/main.conf")}), "General", key); written {
		file, list = "/etc/connman/main.conf", s.value
	}
	for _, start := range strings.Split(list, ",") {
		if start = strings.TrimSpace(start); start != "" && strings.HasPrefix(veth, start) {
			return ""
		}
	}
	return fmt.Sprintf("%s is %s (%s), in which veth is not", key, list, file)
}

// wicked configures the devices that have a file of their own (ifcfg(5)).
func (t *Target) wicked() string {
	files := t.glob("/etc/sysconfig/network/ifcfg-veth*", "/etc/sysconfig/network/ifcfg-"+t.Bridge)
	if len(files) == 0 {
		return ""
	}
	return "it has " + t.onHost(files[0])
}

// ifupdown configures the devices of auto and allow-*; a slash begins a pattern (interfaces(5)).
func (t *Target) ifupdown() string {
	for _, file := range t.glob("/etc/network/interfaces", "/etc/network/interfaces.d/*") {
		for _, line := range t.words(t.onHost(file)) {
			if line[0] != "auto" && !strings.HasPrefix(line[0], "allow-") {
				continue
			}
			for _, pattern := range line[1:] {
				glob, isGlob := strings.CutPrefix(pattern, "/")
				glob, _, _ = strings.Cut(glob, "/") // options follow
				if isGlob && matchesAny(veth, []string{glob}) || pattern == t.Bridge {
					return fmt.Sprintf("%s has: %s", t.onHost(file), strings.Join(line, " "))
				}
			}
		}
	}
	return ""
}

// ifplugd runs ifup for each device of HOTPLUG_INTERFACES.
func (t *Target) ifplugd() string {
	for _, line := range t.words("/etc/default/ifplugd") {
		value, is := strings.CutPrefix(line[0], "HOTPLUG_INTERFACES=")
		if is && strings.Trim(value, `"'`) == "all" {
			return "/etc/default/ifplugd has HOTPLUG_INTERFACES=all"
		}
	}
	return ""
}

// cloudInit configures the network again for each new device if its updates include hotplug.
func (t *Target) cloudInit() string {
	last := ""
	for _, file := range t.glob("/etc/cloud/cloud.cfg", "/etc/cloud/cloud.cfg.d/*.cfg") {
		content, err := os.ReadFile(file)
		var config struct {
			Updates struct{ Network *struct{ When []string } }
		}
		if err != nil || yaml.Unmarshal(content, &config) != nil || config.Updates.Network == nil {
			continue
		}
		last = ""
		if slices.Contains(config.Updates.Network.When, "hotplug") {
			last = t.onHost(file) + " has hotplug among updates.network.when"
		}
	}
	return last
}
