package doctor

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/plainroute/plainroute/pkg/problem"
)

// networkManagers looks whether the programs that configure this host's network leave our routes and
// devices alone. Of netplan only what it renders counts, files of one of the first two.
func networkManagers(_ context.Context, p *Patient) []problem.Problem {
	if !p.seesHost() {
		return Skip("the host's files can't be seen from here", fromHost)
	}
	var found []problem.Problem
	if p.exists("/run/systemd/netif/state") {
		found = append(append(found, p.networkd()...), p.networkFiles()...)
	}
	if p.exists("/run/NetworkManager") {
		found = append(found, p.networkManager()...)
	}
	return append(found, p.otherManagers()...)
}

func (p *Patient) exists(file string) bool {
	_, err := os.Stat(p.Path(file))
	return err == nil
}

// below gives host's folders in the order of rising precedence that systemd has.
func (p *Patient) below(name string) []string {
	var all []string
	for _, folder := range []string{"/usr/lib/", "/usr/local/lib/", "/run/", "/etc/"} {
		all = append(all, p.Path(folder+name))
	}
	return all
}

// dropIn is the command that writes a config file.
func dropIn(file string, lines ...string) string {
	return fmt.Sprintf("`mkdir -p %s && printf '%%s\\n' '%s' >%s`", path.Dir(file), strings.Join(lines, "' '"), file)
}

// networkd deletes routes and rules that it did not make whenever it configures a link
// anew, unless told otherwise (networkd.conf(5)). The agent puts routes back within
// milliseconds, so it is a risk and no failure.
func (p *Patient) networkd() []problem.Problem {
	var files []string
	for _, main := range p.below("systemd/networkd.conf") {
		if _, err := os.Stat(main); err == nil {
			files = []string{main}
		}
	}
	files = append(files, configFiles(".conf", p.below("systemd/networkd.conf.d")...)...)
	manages := map[string]string{"ManageForeignRoutes": "its default", "ManageForeignRoutingPolicyRules": "its default"}
	for _, s := range readSettings(files) {
		if _, ours := manages[s.key]; ours && s.section == "Network" {
			manages[s.key] = s.file + ": " + s.key + "=" + s.value
			if slices.Contains([]string{"no", "n", "false", "f", "off", "0"}, strings.ToLower(s.value)) {
				manages[s.key] = ""
			}
		}
	}
	var shown []string
	for _, key := range []string{"ManageForeignRoutes", "ManageForeignRoutingPolicyRules"} {
		if manages[key] != "" {
			shown = append(shown, key+" is yes ("+manages[key]+")")
		}
	}
	if len(shown) == 0 {
		return nil
	}
	return []problem.Problem{Warn("systemd-networkd runs, and deletes the routes or rules of others when it configures a link", strings.Join(shown, "; "),
		dropIn("/etc/systemd/networkd.conf.d/plainroute.conf", "[Network]", "ManageForeignRoutes=no", "ManageForeignRoutingPolicyRules=no")+", then systemctl restart systemd-networkd")}
}

// device is what a manager sees of one, for its patterns.
type device struct{ name, kind, iftype string }

// podDevices are the bridge and a pod's end of a cable, as the stock plugin names it.
func (p *Patient) podDevices() []device {
	return []device{{p.Bridge, "bridge", "bridge"}, {"veth0a1b2c3d", "veth", "ether"}}
}

// networkFiles finds the .network file that networkd applies to each of our devices:
// the first by name that matches (systemd.network(5)).
func (p *Patient) networkFiles() []problem.Problem {
	files := configFiles(".network", p.below("systemd/network")...)
	var shown []string
	for _, d := range p.podDevices() {
		for _, file := range files {
			settings := readSettings([]string{file})
			if !d.matched(settings) {
				continue
			}
			if !unmanaged(settings) {
				shown = append(shown, fmt.Sprintf("%s applies to %s", strings.TrimPrefix(file, strings.TrimSuffix(p.Root, "/")), d.name))
			}
			break
		}
	}
	if len(shown) == 0 {
		return nil
	}
	return []problem.Problem{Warn("systemd-networkd configures the devices of pods, and may take addresses and routes from them", strings.Join(shown, "; "),
		dropIn("/etc/systemd/network/05-plainroute.network", "[Match]", "Name="+p.Bridge+" veth*", "[Link]", "Unmanaged=yes")+", then networkctl reload; or narrow the [Match] of that file, as by Kind=!*")}
}

func unmanaged(settings []setting) bool {
	return slices.ContainsFunc(settings, func(s setting) bool {
		return s.section == "Link" && s.key == "Unmanaged" && slices.Contains([]string{"yes", "y", "true", "t", "on", "1"}, strings.ToLower(s.value))
	})
}

// matched tells whether all of a [Match] section is true of the device. What we can't
// judge, such as Property or Virtualization, makes a file particular: it is taken not
// to match.
func (d device) matched(settings []setting) bool {
	conditions := 0
	for _, s := range settings {
		if s.section != "Match" || s.value == "" {
			continue
		}
		value, known := map[string]string{"Name": d.name, "Kind": d.kind, "Type": d.iftype, "Driver": d.kind}[s.key]
		if !known || !matchesAny(value, strings.Fields(s.value)) {
			return false
		}
		conditions++
	}
	return conditions > 0
}

// matchesAny takes the patterns of the shell; a ! before the first turns all around.
func matchesAny(value string, patterns []string) bool {
	inverted := strings.HasPrefix(patterns[0], "!")
	patterns[0] = strings.TrimPrefix(patterns[0], "!")
	return inverted != slices.ContainsFunc(patterns, func(pattern string) bool {
		ok, err := path.Match(pattern, value)
		return err == nil && ok
	})
}

// networkManager takes over devices that it is not told to leave alone
// (NetworkManager.conf(5), unmanaged-devices).
func (p *Patient) networkManager() []problem.Problem {
	files := []string{p.Path("/etc/NetworkManager/NetworkManager.conf")}
	files = append(files, configFiles(".conf", p.Path("/usr/lib/NetworkManager/conf.d"), p.Path("/run/NetworkManager/conf.d"), p.Path("/etc/NetworkManager/conf.d"))...)
	settings := readSettings(files)
	var managed []string
	for _, d := range p.podDevices() {
		if !d.leftAlone(settings) {
			managed = append(managed, d.name)
		}
	}
	if len(managed) == 0 {
		return nil
	}
	return []problem.Problem{Warn("NetworkManager runs, and is not told to leave the devices of pods alone", "neither unmanaged-devices nor managed=0 in its config matches "+strings.Join(managed, ", "),
		dropIn("/etc/NetworkManager/conf.d/plainroute.conf", "[keyfile]", "unmanaged-devices+=interface-name:"+p.Bridge+";interface-name:veth*")+", then systemctl reload NetworkManager")}
}

func (d device) leftAlone(settings []setting) bool {
	var specs []string
	sections := map[string][2]bool{} // of [device*]: matches, managed=0
	for _, s := range settings {
		list := strings.FieldsFunc(s.value, func(r rune) bool { return r == ';' || r == ',' })
		switch {
		case s.section == "keyfile" && s.key == "unmanaged-devices":
			specs = list
		case s.section == "keyfile" && s.key == "unmanaged-devices+":
			specs = append(specs, list...)
		case strings.HasPrefix(s.section, "device") && (s.key == "match-device" || s.key == "managed"):
			state := sections[s.section]
			state[0] = state[0] || s.key == "match-device" && d.specified(list)
			state[1] = state[1] || s.key == "managed" && slices.Contains([]string{"0", "false", "no", "off"}, strings.ToLower(s.value))
			sections[s.section] = state
		}
	}
	for _, state := range sections {
		if state[0] && state[1] {
			return true
		}
	}
	return d.specified(specs)
}

// specified tells whether a list of devices has this one (NetworkManager.conf(5),
// Device List Format): an exception goes before what matches.
func (d device) specified(specs []string) bool {
	found := false
	for _, spec := range specs {
		spec = strings.TrimSpace(spec)
		rest, except := strings.CutPrefix(spec, "except:")
		if !d.is(rest) {
			continue
		}
		if except {
			return false
		}
		found = true
	}
	return found
}

func (d device) is(spec string) bool {
	kind, value, ok := strings.Cut(spec, ":")
	if !ok {
		kind, value = "interface-name", spec
	}
	switch kind {
	case "interface-name":
		if exact, is := strings.CutPrefix(value, "="); is {
			return exact == d.name
		}
		match, err := path.Match(value, d.name)
		return err == nil && match
	case "type", "driver":
		return value == d.kind || value == d.iftype && kind == "type" && d.iftype != "ether"
	}
	return false
}
