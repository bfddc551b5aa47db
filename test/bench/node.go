package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"
)

// images is the most that a kubelet lists (its nodeStatusMaxImages), volumes the number that a busy
// machine has attached.
const (
	images  = 50
	volumes = 8
	// fewNodes is how many Nodes come or go at once in a measurement.
	fewNodes = 20
	// creators is how many Nodes are made at a time.
	creators = 16
)

// populate creates all Nodes.
func (l *lab) populate(ctx context.Context) error {
	errs := make([]error, l.opts.nodes)
	workqueue.ParallelizeUntil(ctx, creators, l.opts.nodes, func(index int) { errs[index] = l.create(ctx, index) })
	return errors.Join(errs...)
}

func (l *lab) create(ctx context.Context, index int) error {
	_, err := l.client.CoreV1().Nodes().Create(ctx, l.node(index), metav1.CreateOptions{FieldManager: "kubelet"})
	if err != nil {
		return fmt.Errorf("creating Node %d: %w", index, err)
	}
	return nil
}

// node is a Node as a kubelet that has run for a while makes it: 12.7 KB in protobuf once the server has added its
// managed fields, most of it names of images.
func (l *lab) node(index int) *corev1.Node {
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: nodeName(index),
			Labels: map[string]string{
				corev1.LabelHostname: nodeName(index), corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64",
				corev1.LabelInstanceTypeStable: "m6i.4xlarge", corev1.LabelTopologyRegion: "eu-central-1",
				corev1.LabelTopologyZone: "eu-central-1" + string(rune('a'+index%3)), "node.kubernetes.io/pool": "general",
			},
			Annotations: map[string]string{
				"node.alpha.kubernetes.io/ttl":                           "300",
				"volumes.kubernetes.io/controller-managed-attach-detach": "true",
				"csi.volume.kubernetes.io/nodeid":                        fmt.Sprintf(`{"ebs.csi.example.com":"i-%017x"}`, index),
			},
		},
		Spec:   corev1.NodeSpec{ProviderID: fmt.Sprintf("aws:///eu-central-1a/i-%017x", index)},
		Status: status(index, l.addresses(index)),
	}
	if l.opts.claims {
		node = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(index)}}
		node.Status.Addresses = nodeAddresses(index, l.addresses(index))
	}
	for _, subnet := range l.subnets(index) {
		node.Spec.PodCIDRs = append(node.Spec.PodCIDRs, subnet.String())
	}
	node.Spec.PodCIDR = node.Spec.PodCIDRs[0]
	return node
}

func status(index int, addresses []netip.Prefix) corev1.NodeStatus {
	resources := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("16"), corev1.ResourceMemory: resource.MustParse("65011724Ki"),
		corev1.ResourceEphemeralStorage: resource.MustParse("209702892Ki"), corev1.ResourcePods: resource.MustParse("110"),
		"hugepages-1Gi": resource.MustParse("0"), "hugepages-2Mi": resource.MustParse("0"),
	}
	s := corev1.NodeStatus{
		Capacity: resources, Allocatable: resources, Addresses: nodeAddresses(index, addresses), Conditions: conditions(time.Now()),
		DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: 10250}},
		NodeInfo: corev1.NodeSystemInfo{
			MachineID: digest("machine", index)[:32], SystemUUID: digest("system", index)[:36], BootID: digest("boot", index)[:36],
			KernelVersion: "6.8.0-1021-aws", OSImage: "Ubuntu 24.04.2 LTS", ContainerRuntimeVersion: "containerd://2.1.3",
			KubeletVersion: "v1.37.2", OperatingSystem: "linux", Architecture: "amd64",
		},
	}
	for i := range images {
		name := "registry.example.com/team-" + string(rune('a'+i%20)) + "/" + strings.Repeat("service-", 1+i%3) + digest("image", i)[:6]
		s.Images = append(s.Images, corev1.ContainerImage{
			Names: []string{name + "@sha256:" + digest("layer", i), name + ":v1." + fmt.Sprint(i)}, SizeBytes: int64(40_000_000 + i*1_234_567),
		})
	}
	for i := range volumes {
		volume := corev1.UniqueVolumeName(fmt.Sprintf("kubernetes.io/csi/ebs.csi.example.com^vol-%s", digest("volume", index*volumes+i)[:17]))
		s.VolumesInUse = append(s.VolumesInUse, volume)
		s.VolumesAttached = append(s.VolumesAttached, corev1.AttachedVolume{Name: volume, DevicePath: ""})
	}
	return s
}

func nodeAddresses(index int, addresses []netip.Prefix) []corev1.NodeAddress {
	var all []corev1.NodeAddress
	for _, address := range addresses {
		all = append(all, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: address.Addr().String()})
	}
	return append(all, corev1.NodeAddress{Type: corev1.NodeHostName, Address: nodeName(index)})
}

func conditions(heartbeat time.Time) []corev1.NodeCondition {
	condition := func(kind corev1.NodeConditionType, status corev1.ConditionStatus, reason, message string) corev1.NodeCondition {
		return corev1.NodeCondition{
			Type: kind, Status: status, Reason: reason, Message: message,
			LastHeartbeatTime: metav1.NewTime(heartbeat), LastTransitionTime: metav1.NewTime(time.Unix(1_780_000_000, 0)),
		}
	}
	return []corev1.NodeCondition{
		condition(corev1.NodeMemoryPressure, corev1.ConditionFalse, "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
		condition(corev1.NodeDiskPressure, corev1.ConditionFalse, "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
		condition(corev1.NodePIDPressure, corev1.ConditionFalse, "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
		condition(corev1.NodeReady, corev1.ConditionTrue, "KubeletReady", "kubelet is posting ready status"),
	}
}

// digest is 64 hexadecimal digits, always the same for the same arguments.
func digest(kind string, number int) string {
	return fmt.Sprintf("%x", sha256.Sum256(fmt.Append(nil, kind, number)))
}
