package kubelets

import "fmt"

// containerdSocket is where containerd listens by default.
const containerdSocket = "/run/containerd/containerd.sock"

// containerdConfig is for containerd 1.6. Without CAP_SYS_RESOURCE no process may lower its score for the OOM killer,
// which restrict_oom_score_adj respects.
const containerdConfig = `version = 2
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "localhost/pause:1"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
`

func kubeletConfig() string {
	return fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: %s/ca.crt}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
failCgroupV1: false
containerRuntimeEndpoint: unix://%s
clusterDomain: cluster.local
clusterDNS: [%s]
failSwapOn: false
evictionHard: {memory.available: 1Mi, nodefs.available: 1Mi, imagefs.available: 1Mi, nodefs.inodesFree: "1", imagefs.inodesFree: "1"}
imageGCHighThresholdPercent: 100
volumePluginDir: /var/lib/kubelet/volumeplugins
registryPullQPS: 0
`, nodePKI, containerdSocket, clusterDNS)
}

// proxyConfig leaves conntrack's limits, which are this machine's, alone.
func proxyConfig(p plan) string {
	return fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: %s
clientConnection: {kubeconfig: %s/kube-proxy.kubeconfig}
clusterCIDR: %s
conntrack: {maxPerCore: 0, min: 0}
`, p.ProxyMode, nodePKI, podRanges)
}
