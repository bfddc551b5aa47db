package cni

// Required are the plugins without which no pod starts: those of our config, and
// loopback, which container runtimes call for each pod.
func Required() []string {
	return []string{"bridge", "host-local", "loopback", "portmap"}
}
