package doctor

import (
	"bufio"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/plainroute/plainroute/pkg/problem"
)

// A manager is a program that configures each device that appears, pods' too, unless it is told not
// to: it takes addresses for them, or gives the host routes by them.
type manager struct {
	name string
	// runs are files of which one is there while it runs.
	runs []string
	// touches says by which setting it takes a pod's device; empty: it leaves them alone.
	touches func(*Patient) string
	cure    func(*Patient) string
}

var managers = []manager{
	{"dhcpcd", []string{"/run/dhcpcd/pid", "/run/dhcpcd/master.pid", "/run/dhcpcd.pid"}, (*Patient).dhcpcd, (*Patient).dhcpcdCure},
	{"ConnMan", []string{"/run/connman"}, (*Patient).connman, func(p *Patient) string {
		return fmt.Sprintf("add veth and %s to NetworkInterfaceBlacklist below [General] in /etc/connman/main.conf (its default is vmnet,vboxnet,virbr,ifb,ve-,vb-), then systemctl restart connman", p.Bridge)
	}},
	{"wicked", []string{"/run/wicked"}, (*Patient).wicked, func(*Patient) string {
		return "move that file out of /etc/sysconfig/network, then wicked ifreload all"
	}},
	{"ifupdown", []string{"/run/network/ifstate", "/run/ifstate"}, (*Patient).ifupdown, func(*Patient) string {
		return "narrow the pattern in that file to the node's own devices, such as /en* or eth0"
	}},
	{"ifplugd", []string{"/etc/default/ifplugd"}, (*Patient).ifplugd, func(*Patient) string {
		return "name the node's own devices in HOTPLUG_INTERFACES of /etc/default/ifplugd instead of all"
	}},
	{"cloud-init", []string{"/run/cloud-init"}, (*Patient).cloudInit, func(*Patient) string {
		return "take hotplug out of updates.network.when in that file, unless network cards are added while the machine runs; else each pod's device has it look into the network's config anew"
	}},
}

// otherManagers are all but systemd-networkd and NetworkManager, for which there is more to say.
func (p *Patient) otherManagers() []problem.Problem {
	var found []problem.Problem
	for _, m := range managers {
		if !slices.ContainsFunc(m.runs, p.exists) {
			continue
		}
		if why := m.touches(p); why != "" {
			found = append(found, Warn(m.name+" runs, and takes the devices of pods for its own", why, m.cure(p)))
		}
	}
	return found
}

// veth is a pod's end of a cable, as the stock plugin names it. Bridges are left alone by these
// managers unless they are named.
const veth = "veth0a1b2c3d"

// words are a file's lines in words, without comments.
func (p *Patient) words(file string) [][]string {
	content, err := os.ReadFile(p.Path(file))
	if err != nil {
		return nil
	}
	var all [][]string
	lines := bufio.NewScanner(strings.NewReader(strings.ReplaceAll(string(content), "\\\n", " ")))
	for lines.Scan() {
		text, _, _ := strings.Cut(lines.Text(), "#")
		if words := strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" \t,", r) }); len(words) > 0 {
			all = append(all, words)
		}
	}
	return all
}

const dhcpcdConf = "/etc/dhcpcd.conf"

// dhcpcd takes all devices but those that are denied, or not among those that are allowed
// (dhcpcd.conf(5)). What stands below the first interface, ssid or profile is for that one.
func (p *Patient) dhcpcd() string {
	lists := map[string][]string{}
	for _, line := range p.words(dhcpcdConf) {
		if slices.Contains([]string{"interface", "ssid", "profile"}, line[0]) {
			break
		}
		lists[line[0]] = append(lists[line[0]], line[1:]...)
	}
	allowed, denied := lists["allowinterfaces"], lists["denyinterfaces"]
	if globbed(veth, denied) || len(allowed) > 0 && !globbed(veth, allowed) {
		return ""
	}
	return fmt.Sprintf("denyinterfaces of %s has no veth*, and allowinterfaces does not leave them out", dhcpcdConf)
}

// dhcpcdCure writes above everything else, since below an interface it would be for that one alone.
func (p *Patient) dhcpcdCure() string {
	line := "denyinterfaces veth* " + p.Bridge
	if info, err := os.Stat(p.Path(dhcpcdConf)); err != nil || info.Size() == 0 {
		return fmt.Sprintf("`echo '%s' >%s`, then systemctl restart dhcpcd", line, dhcpcdConf)
	}
	return fmt.Sprintf("`sed -i '1i %s' %s`, then systemctl restart dhcpcd", line, dhcpcdConf)
}

func globbed(name string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		ok, err := path.Match(pattern, name)
		return err == nil && ok
	})
}

// connman takes all devices whose names don't begin with a word of its list (connman.conf(5)).
func (p *Patient) connman() string {
	const key = "NetworkInterfaceBlacklist"
	file, list := "its default", "vmnet,vboxnet,virbr,ifb,ve-,vb-"
	for _, s := range readSettings([]string{p.Path("/etc/connman/main.conf")}) {
		if s.section == "General" && s.key == key {
			file, list = "/etc/connman/main.conf", s.value
		}
	}
	if slices.ContainsFunc(strings.Split(list, ","), func(start string) bool {
		start = strings.TrimSpace(start)
		return start != "" && strings.HasPrefix(veth, start)
	}) {
		return ""
	}
	return fmt.Sprintf("%s is %s (%s), in which veth is not", key, list, file)
}

// wicked takes the devices that have a file of theirs (ifcfg(5)).
func (p *Patient) wicked() string {
	files, _ := filepath.Glob(p.Path("/etc/sysconfig/network/ifcfg-veth*")) // no fault of a pattern of ours
	if bridge := p.Path("/etc/sysconfig/network/ifcfg-" + p.Bridge); p.exists("/etc/sysconfig/network/ifcfg-" + p.Bridge) {
		files = append(files, bridge)
	}
	if len(files) == 0 {
		return ""
	}
	return "it has " + p.onHost(files[0])
}

// ifupdown takes the devices of auto and allow-hotplug, of which a pattern begins with a slash
// (interfaces(5)).
func (p *Patient) ifupdown() string {
	files, _ := filepath.Glob(p.Path("/etc/network/interfaces.d/*")) // no fault of a pattern of ours
	for _, file := range append([]string{p.Path("/etc/network/interfaces")}, files...) {
		for _, line := range p.words(p.onHost(file)) {
			if line[0] != "auto" && !strings.HasPrefix(line[0], "allow-") {
				continue
			}
			for _, pattern := range line[1:] {
				glob, isGlob := strings.CutPrefix(pattern, "/")
				glob, _, _ = strings.Cut(glob, "/") // options follow
				if isGlob && globbed(veth, []string{glob}) || pattern == p.Bridge {
					return fmt.Sprintf("%s has: %s", p.onHost(file), strings.Join(line, " "))
				}
			}
		}
	}
	return ""
}

// ifplugd has ifup configure each device of HOTPLUG_INTERFACES.
func (p *Patient) ifplugd() string {
	for _, line := range p.words("/etc/default/ifplugd") {
		value, is := strings.CutPrefix(line[0], "HOTPLUG_INTERFACES=")
		if is && strings.Trim(value, `"'`) == "all" {
			return "/etc/default/ifplugd has HOTPLUG_INTERFACES=all"
		}
	}
	return ""
}

// cloudInit looks into the network's config at each new device where its updates of the network
// have the event hotplug.
func (p *Patient) cloudInit() string {
	last := ""
	files, _ := filepath.Glob(p.Path("/etc/cloud/cloud.cfg.d/*.cfg")) // no fault of a pattern of ours
	for _, file := range append([]string{p.Path("/etc/cloud/cloud.cfg")}, files...) {
		content, err := os.ReadFile(file)
		var config struct {
			Updates struct {
				Network *struct {
					When []string `json:"when"`
				} `json:"network"`
			} `json:"updates"`
		}
		if err != nil || yaml.Unmarshal(content, &config) != nil || config.Updates.Network == nil {
			continue
		}
		last = ""
		if slices.Contains(config.Updates.Network.When, "hotplug") {
			last = p.onHost(file) + " has hotplug among updates.network.when"
		}
	}
	return last
}
