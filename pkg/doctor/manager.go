package doctor

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/plainroute/plainroute/pkg/problem"
)

// networkManagers looks for programs that change our devices. netplan writes files for two of them.
func networkManagers(_ context.Context, t *Target) []problem.Problem {
	if !t.seesHost() {
		return Skip("the host's files can't be seen from here", fromHost)
	}
	var found []problem.Problem
	if t.exists("/run/systemd/netif/state") {
		found = append(append(found, t.networkd()...), t.networkFiles()...)
	}
	if t.exists("/run/NetworkManager") {
		found = append(found, t.networkManager()...)
	}
	return append(found, t.otherManagers()...)
}

// below returns the host's folders of that name, in systemd's order of rising precedence.
func (t *Target) below(name string) []string {
	return mapped([]string{"/usr/lib/", "/usr/local/lib/", "/run/", "/etc/"}, func(folder string) string { return t.Path(folder + name) })
}

// dropIn returns the command that writes a config file.
func dropIn(file string, lines ...string) string {
	return fmt.Sprintf("`mkdir -p %s && printf '%%s\\n' '%s' >%s`", path.Dir(file), strings.Join(lines, "' '"), file)
}

// networkd by default deletes routes and rules that it did not make whenever it configures a link
// again (networkd.conf(5)). The agent restores routes within milliseconds, so that is a warning.
func (t *Target) networkd() []problem.Problem {
	files := append(configFiles("networkd.conf", t.below("systemd")...), configFiles(".conf", t.below("systemd/networkd.conf.d")...)...)
	settings := readSettings(files)
	var shown []string
	for _, key := range []string{"ManageForeignRoutes", "ManageForeignRoutingPolicyRules"} {
		s, written := lastSetting(settings, "Network", key)
		switch {
		case !written:
			shown = append(shown, key+" is yes (its default)")
		case !isFalse(s.value):
			shown = append(shown, key+" is yes ("+s.file+": "+key+"="+s.value+")")
		}
	}
	return warnIf("systemd-networkd runs, and deletes foreign routes or rules when it configures a link", shown,
		dropIn("/etc/systemd/networkd.conf.d/plainroute.conf", "[Network]", "ManageForeignRoutes=no", "ManageForeignRoutingPolicyRules=no")+", then systemctl restart systemd-networkd")
}

// A device is what a manager's patterns match.
type device struct{ name, kind, iftype string }

// podDevices are the bridge and a pod's port, named as by the stock plugin.
func (t *Target) podDevices() []device {
	return []device{{t.Bridge, "bridge", "bridge"}, {veth, "veth", "ether"}}
}

// networkFiles finds the file that networkd applies: the first that matches (systemd.network(5)).
func (t *Target) networkFiles() []problem.Problem {
	files := configFiles(".network", t.below("systemd/network")...)
	var shown []string
	for _, d := range t.podDevices() {
		for _, file := range files {
			settings := readSettings([]string{file})
			if !d.matched(settings) {
				continue
			}
			if !slices.ContainsFunc(settings, func(s setting) bool { return s.section == "Link" && s.key == "Unmanaged" && isTrue(s.value) }) {
				shown = append(shown, fmt.Sprintf("%s applies to %s", t.onHost(file), d.name))
			}
			break
		}
	}
	return warnIf("systemd-networkd configures the devices of pods, and may delete their addresses and routes", shown,
		dropIn("/etc/systemd/network/05-plainroute.network", "[Match]", "Name="+t.Bridge+" veth*", "[Link]", "Unmanaged=yes")+", then networkctl reload; or narrow the [Match] of that file, as by Kind=!*")
}

// matched reports whether all of a [Match] section is true of the device. A file with other
// conditions, such as Property, is for particular devices, and counts as not matching.
func (d device) matched(settings []setting) bool {
	conditions := 0
	for _, s := range settings {
		if s.section != "Match" || s.value == "" {
			continue
		}
		value, known := map[string]string{"Name": d.name, "Kind": d.kind, "Type": d.iftype, "Driver": d.kind}[s.key]
		if !known || !matchesList(value, strings.Fields(s.value)) {
			return false
		}
		conditions++
	}
	return conditions > 0
}

// matchesList matches shell patterns; a ! before the first inverts the result.
func matchesList(value string, patterns []string) bool {
	first, inverted := strings.CutPrefix(patterns[0], "!")
	return inverted != matchesAny(value, append([]string{first}, patterns[1:]...))
}

// networkManager configures all but its unmanaged-devices (NetworkManager.conf(5)).
func (t *Target) networkManager() []problem.Problem {
	files := []string{t.Path("/etc/NetworkManager/NetworkManager.conf")}
	files = append(files, configFiles(".conf", t.Path("/usr/lib/NetworkManager/conf.d"), t.Path("/run/NetworkManager/conf.d"), t.Path("/etc/NetworkManager/conf.d"))...)
	settings := readSettings(files)
	var managed []string
	for _, d := range t.podDevices() {
		if !d.leftAlone(settings) {
			managed = append(managed, d.name)
		}
	}
	if len(managed) == 0 {
		return nil
	}
	return Warn("NetworkManager runs, and manages the devices of pods", "neither unmanaged-devices nor managed=0 in its config matches "+strings.Join(managed, ", "),
		dropIn("/etc/NetworkManager/conf.d/plainroute.conf", "[keyfile]", "unmanaged-devices+=interface-name:"+t.Bridge+";interface-name:veth*")+", then systemctl reload NetworkManager")
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
			state[1] = state[1] || s.key == "managed" && isFalse(s.value)
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

// specified reports whether a list of devices includes this one (NetworkManager.conf(5), Device
// List Format). An exception takes precedence over a match.
func (d device) specified(specs []string) bool {
	found := false
	for _, spec := range specs {
		rest, except := strings.CutPrefix(strings.TrimSpace(spec), "except:")
		if d.is(rest) && except {
			return false
		}
		found = found || d.is(rest)
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
		return matchesAny(d.name, []string{value})
	case "type", "driver":
		return value == d.kind || value == d.iftype && kind == "type" && d.iftype != "ether"
	}
	return false
}
