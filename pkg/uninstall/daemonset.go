package uninstall

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apilabels "k8s.io/apimachinery/pkg/labels"

	"github.com/plainroute/plainroute/pkg/topology"
)

// Options describe the pods that clean the nodes. They can't be derived from the agents' DaemonSet,
// which may be gone.
type Options struct {
	Namespace      string
	Image          string // plainroute's
	PullPolicy     string
	PullSecrets    []string
	ServiceAccount string // of the pods, which need no rights; empty: the namespace's default
	PriorityClass  string // admits the pods to full nodes; empty: none

	CNIConfDir, CNICacheDir, RunDir string // folders of the hosts

	Bridge      string // the pods' bridge; empty: cleanup detects it
	DACOverride bool   // adds that capability, for folders that don't belong to root
	SELinux     *corev1.SELinuxOptions
	DryRun      bool                   // reports what would be removed
	Timeout     time.Duration          // how long to wait after the last progress of a node
	Owner       *metav1.OwnerReference // the Pod that this runs in; the DaemonSet is deleted with it
}

const (
	// Name is the prefix of the DaemonSet's name, and its label.
	Name = "plainroute-cleanup"

	nameLabel      = "app.kubernetes.io/name"
	instanceLabel  = "app.kubernetes.io/instance" // the release, by Helm's convention
	managedByLabel = "app.kubernetes.io/managed-by"
	partOfLabel    = "app.kubernetes.io/part-of"
	componentLabel = "app.kubernetes.io/component"
	managedBy      = "plainroute-uninstall"
	cleaner        = "cleanup"

	// agentWait is longer than a DaemonSet's pod takes to end (terminationGracePeriodSeconds, 30 s
	// by default).
	agentWait = "60s"

	// Where the pod mounts the host's CNI folders.
	mountedConfDir  = "/etc/cni/net.d"
	mountedCacheDir = "/var/lib/cni"

	summaryFile = "/dev/termination-log"
)

func labels() map[string]string { return map[string]string{nameLabel: Name, managedByLabel: managedBy} }

func selector() string { return apilabels.Set(labels()).String() }

// daemonSet cleans in an init container, whose termination message is the result, and then waits,
// because a container that ends is restarted.
func (o Options) daemonSet() *appsv1.DaemonSet {
	set := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{GenerateName: Name + "-", Namespace: o.Namespace, Labels: labels()},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels()},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels()}, Spec: o.podSpec()},
		},
	}
	if o.Owner != nil {
		set.OwnerReferences = []metav1.OwnerReference{*o.Owner}
	}
	return set
}

func (o Options) podSpec() corev1.PodSpec {
	spec := corev1.PodSpec{
		ServiceAccountName: o.ServiceAccount, AutomountServiceAccountToken: new(false), EnableServiceLinks: new(false),
		HostNetwork: true, PriorityClassName: o.PriorityClass, TerminationGracePeriodSeconds: new(int64(5)),
		NodeSelector: map[string]string{corev1.LabelOSStable: "linux"}, Affinity: realNodes(),
		Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		SecurityContext: &corev1.PodSecurityContext{
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}, SELinuxOptions: o.SELinux,
		},
		Volumes:        []corev1.Volume{hostFolder("cni-conf", o.CNIConfDir), hostFolder("cni-cache", o.CNICacheDir), hostFolder("run", o.RunDir)},
		InitContainers: []corev1.Container{o.cleaner()},
		Containers:     []corev1.Container{o.container("stay", "stay")},
	}
	for _, name := range o.PullSecrets {
		spec.ImagePullSecrets = append(spec.ImagePullSecrets, corev1.LocalObjectReference{Name: name})
	}
	return spec
}

func (o Options) cleaner() corev1.Container {
	args := []string{
		"cleanup", "--run-dir=" + o.RunDir, "--cni-conf-dir=" + mountedConfDir, "--cni-cache-dir=" + mountedCacheDir,
		"--output=json", "--summary=" + summaryFile, "--force",
	}
	if o.Bridge != "" {
		args = append(args, "--bridge="+o.Bridge)
	}
	if o.DryRun {
		args = append(args, "--dry-run")
	} else {
		args = append(args, "--wait="+agentWait)
	}
	c := o.container(cleaner, args...)
	c.SecurityContext.Capabilities.Add = []corev1.Capability{"NET_ADMIN"}
	if o.DACOverride {
		c.SecurityContext.Capabilities.Add = append(c.SecurityContext.Capabilities.Add, "DAC_OVERRIDE")
	}
	c.TerminationMessagePath = summaryFile
	c.VolumeMounts = []corev1.VolumeMount{
		{Name: "cni-conf", MountPath: mountedConfDir},
		{Name: "cni-cache", MountPath: mountedCacheDir, ReadOnly: true},
		{Name: "run", MountPath: o.RunDir}, // the CNI config refers to it by this path
	}
	return c
}

func (o Options) container(name string, args ...string) corev1.Container {
	return corev1.Container{
		Name: name, Image: o.Image, ImagePullPolicy: corev1.PullPolicy(o.PullPolicy), Args: args,
		SecurityContext: &corev1.SecurityContext{
			RunAsUser: new(int64(0)), AllowPrivilegeEscalation: new(false), ReadOnlyRootFilesystem: new(true),
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("32Mi"),
		}},
	}
}

func realNodes() *corev1.Affinity {
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{topology.RealNodes()}},
	}}
}

// isReal reports whether a Node gets a pod.
func isReal(n *corev1.Node) bool {
	return n.Labels[corev1.LabelOSStable] == "linux" && !topology.Virtual(n.Labels)
}

// hostFolder is created if missing, because the pod would not start on a node that never had an
// agent.
func hostFolder(name, path string) corev1.Volume {
	source := &corev1.HostPathVolumeSource{Path: path, Type: new(corev1.HostPathDirectoryOrCreate)}
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{HostPath: source}}
}
