package e2e

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

const (
	namespace     = "plainroute-e2e"
	workloadImage = "localhost/workload:1"

	// podPort is where pods serve HTTP and UDP, hostPort where group a does on its nodes as well, and nodePort where
	// the pods on the host's network do.
	podPort  = 8080
	hostPort = 18080
	nodePort = 18090
)

// Each node has a pod of each group.
const (
	groupA    = "a"
	groupB    = "b"
	groupHost = "host" // on the host's network
)

// Services select the pods of group a, one on each node.
const (
	serviceCluster = "cluster" // NodePort too
	serviceLocal   = "local"   // NodePorts lead to the node's own pod, and keep the client's address
	serviceSticky  = "sticky"  // a client stays with its pod
	serviceSelf    = "self"    // the only endpoint for a node's pods is the node's own pod
	serviceNames   = "names"   // headless
)

// makeObjects makes the namespace, the pods and the Services.
func (c *cluster) makeObjects(ctx context.Context) error {
	if err := c.makeNamespace(ctx, namespace); err != nil {
		return err
	}
	for _, set := range []*appsv1.DaemonSet{daemonSet(groupA), daemonSet(groupB), daemonSet(groupHost)} {
		if _, err := c.api.AppsV1().DaemonSets(namespace).Create(ctx, set, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("making the pods: %w", err)
		}
	}
	for _, service := range services() {
		if _, err := c.api.CoreV1().Services(namespace).Create(ctx, service, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("making the Services: %w", err)
		}
	}
	return nil
}

func daemonSet(group string) *appsv1.DaemonSet {
	port := int32(podPort)
	ports := []corev1.ContainerPort{{Name: "tcp", ContainerPort: podPort}}
	switch group {
	case groupA:
		ports = []corev1.ContainerPort{
			{Name: "tcp", ContainerPort: podPort, HostPort: hostPort},
			{Name: "udp", ContainerPort: podPort, HostPort: hostPort, Protocol: corev1.ProtocolUDP},
		}
	case groupHost:
		port = nodePort
		ports = nil
	}
	labels := map[string]string{"app": group}
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: group},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					HostNetwork: group == groupHost,
					// A control plane's node is a node.
					Tolerations:                   []corev1.Toleration{{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}},
					TerminationGracePeriodSeconds: ptr.To[int64](2),
					Containers:                    []corev1.Container{workloadContainer(port, ports)},
				},
			},
		},
	}
}

func workloadContainer(port int32, ports []corev1.ContainerPort) corev1.Container {
	name := func(variable, path string) corev1.EnvVar {
		return corev1.EnvVar{Name: variable, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
	}
	return corev1.Container{
		Name: "workload", Image: workloadImage, ImagePullPolicy: corev1.PullNever,
		Args:  []string{"serve", fmt.Sprintf("-port=%d", port)},
		Env:   []corev1.EnvVar{name("POD_NAME", "metadata.name"), name("NODE_NAME", "spec.nodeName")},
		Ports: ports,
		ReadinessProbe: &corev1.Probe{
			ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(port)}},
			PeriodSeconds: 1,
		},
	}
}

func services() []*corev1.Service {
	cluster, local, sticky, self, names := service(serviceCluster), service(serviceLocal), service(serviceSticky), service(serviceSelf), service(serviceNames)
	cluster.Spec.Type = corev1.ServiceTypeNodePort
	local.Spec.Type = corev1.ServiceTypeNodePort
	local.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	sticky.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	self.Spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
	names.Spec.ClusterIP = corev1.ClusterIPNone
	return []*corev1.Service{cluster, local, sticky, self, names}
}

func service(name string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{
			Selector:       map[string]string{"app": groupA},
			IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicyPreferDualStack),
			Ports: []corev1.ServicePort{
				{Name: "tcp", Port: 80, TargetPort: intstr.FromInt32(podPort)},
				{Name: "udp", Port: 80, TargetPort: intstr.FromInt32(podPort), Protocol: corev1.ProtocolUDP},
			},
		},
	}
}
