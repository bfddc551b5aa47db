package doctor

import (
	"testing"

	"github.com/plainroute/plainroute/pkg/problem"
)

func TestManagersOfNewDevices(t *testing.T) {
	const (
		dhcpcdRuns, connmanRuns, wickedRuns = "/run/dhcpcd/pid", "/run/connman/resolv.conf", "/run/wicked/iface/1"
		ifupRuns, cloudRuns                 = "/run/network/ifstate", "/run/cloud-init/status.json"
	)
	for name, c := range map[string]struct {
		files map[string]string
		words []string // empty: no problem
	}{
		"dhcpcd does not run":         {map[string]string{dhcpcdConf: "hostname\n"}, nil},
		"dhcpcd on one device":        {map[string]string{"/run/dhcpcd/eth0-4.pid": "", dhcpcdConf: "hostname\n"}, nil},
		"dhcpcd":                      {map[string]string{dhcpcdRuns: "7", dhcpcdConf: "hostname\n# denyinterfaces veth*\n"}, []string{"dhcpcd runs", "`sed -i '1i denyinterfaces veth* plainroute0' /etc/dhcpcd.conf`"}},
		"dhcpcd of before":            {map[string]string{"/run/dhcpcd.pid": "7"}, []string{"`echo 'denyinterfaces veth* plainroute0' >/etc/dhcpcd.conf`"}},
		"dhcpcd excludes":             {map[string]string{dhcpcdRuns: "7", dhcpcdConf: "denyinterfaces docker0,veth*\n"}, nil},
		"dhcpcd excludes others":      {map[string]string{dhcpcdRuns: "7", dhcpcdConf: "denyinterfaces docker0 wlan*\n"}, []string{"no veth*"}},
		"dhcpcd excludes for one":     {map[string]string{dhcpcdRuns: "7", dhcpcdConf: "interface eth0\nstatic routers=192.168.1.1\ndenyinterfaces veth*\n"}, []string{"no veth*"}},
		"dhcpcd may take a few":       {map[string]string{dhcpcdRuns: "7", dhcpcdConf: "allowinterfaces eth* en*\n"}, nil},
		"dhcpcd may take all":         {map[string]string{dhcpcdRuns: "7", dhcpcdConf: "allowinterfaces *\n"}, []string{"dhcpcd runs"}},
		"connman":                     {map[string]string{connmanRuns: ""}, []string{"its default", "add veth and plainroute0"}},
		"connman excludes":            {map[string]string{connmanRuns: "", "/etc/connman/main.conf": "[General]\nNetworkInterfaceBlacklist = virbr, veth,plainroute0\n"}, nil},
		"connman elsewhere":           {map[string]string{connmanRuns: "", "/etc/connman/main.conf": "[Other]\nNetworkInterfaceBlacklist=veth\n"}, []string{"ConnMan runs"}},
		"wicked":                      {map[string]string{wickedRuns: "", "/etc/sysconfig/network/ifcfg-eth0": ""}, nil},
		"wicked has the bridge":       {map[string]string{wickedRuns: "", "/etc/sysconfig/network/ifcfg-plainroute0": ""}, []string{"/etc/sysconfig/network/ifcfg-plainroute0"}},
		"wicked has a port":           {map[string]string{wickedRuns: "", "/etc/sysconfig/network/ifcfg-veth0": ""}, []string{"ifcfg-veth0"}},
		"ifupdown":                    {map[string]string{ifupRuns: "", "/etc/network/interfaces": "auto lo /en*\nallow-hotplug eth0\niface eth0 inet dhcp\n"}, nil},
		"ifupdown takes all":          {map[string]string{ifupRuns: "", "/etc/network/interfaces": "auto lo\n", "/etc/network/interfaces.d/all": "allow-hotplug /*\n"}, []string{"/etc/network/interfaces.d/all has: allow-hotplug /*"}},
		"ifupdown takes one of all":   {map[string]string{ifupRuns: "", "/etc/network/interfaces": "auto /v*/1\n"}, []string{"auto /v*/1"}},
		"ifupdown has the bridge":     {map[string]string{ifupRuns: "", "/etc/network/interfaces": "auto plainroute0\n"}, []string{"ifupdown runs"}},
		"ifplugd":                     {map[string]string{"/etc/default/ifplugd": "INTERFACES=eth0\nHOTPLUG_INTERFACES=\"\"\n"}, nil},
		"ifplugd takes all":           {map[string]string{"/etc/default/ifplugd": "HOTPLUG_INTERFACES=\"all\"\n"}, []string{"HOTPLUG_INTERFACES=all"}},
		"cloud-init":                  {map[string]string{cloudRuns: "", "/etc/cloud/cloud.cfg": "updates:\n  network:\n    when: [boot]\n"}, nil},
		"cloud-init at each device":   {map[string]string{cloudRuns: "", "/etc/cloud/cloud.cfg.d/90.cfg": "updates: {network: {when: [boot, hotplug]}}\n"}, []string{"/etc/cloud/cloud.cfg.d/90.cfg has hotplug"}},
		"cloud-init taken back":       {map[string]string{cloudRuns: "", "/etc/cloud/cloud.cfg.d/90.cfg": "updates: {network: {when: [hotplug]}}\n", "/etc/cloud/cloud.cfg.d/95.cfg": "updates: {network: {when: [boot]}}\n"}, nil},
		"netplan takes all (network)": {map[string]string{runs: "", "/etc/systemd/networkd.conf": off, "/run/systemd/network/10-netplan-all.network": "[Match]\nName=*\n[Network]\nDHCP=yes\n"}, []string{"10-netplan-all.network applies to plainroute0"}},
	} {
		t.Run(name, func(t *testing.T) {
			found := networkManagers(t.Context(), files(t, c.files))
			if c.words == nil {
				well(t, found)
				return
			}
			finds(t, found, problem.Warning, c.words...)
		})
	}
}
