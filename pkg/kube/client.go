// Package kube has typed clients of the few kinds of objects that commands read and write. Their calls
// are those of client-go's clientset, which would bring the types of all API groups into the binary.
package kube

import (
	"fmt"
	"net/url"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
)

// Client makes requests to an API server.
type Client struct {
	core, apps, coordination rest.Interface
	params                   runtime.ParameterCodec
}

// New returns a Client that uses config.
func New(config *rest.Config) (*Client, error) {
	scheme := runtime.NewScheme()
	groups := runtime.NewSchemeBuilder(corev1.AddToScheme, appsv1.AddToScheme, coordinationv1.AddToScheme)
	if err := groups.AddToScheme(scheme); err != nil {
		return nil, err
	}
	config = rest.CopyConfig(config)
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	if config.UserAgent == "" {
		config.UserAgent = rest.DefaultKubernetesUserAgent()
	}
	transport, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	c := &Client{params: runtime.NewParameterCodec(scheme)}
	for group, client := range map[schema.GroupVersion]*rest.Interface{
		corev1.SchemeGroupVersion: &c.core, appsv1.SchemeGroupVersion: &c.apps, coordinationv1.SchemeGroupVersion: &c.coordination,
	} {
		config.APIPath, config.GroupVersion = "/apis", &group
		if group == corev1.SchemeGroupVersion {
			config.APIPath = "/api"
		}
		if *client, err = rest.RESTClientForConfigAndClient(config, transport); err != nil {
			return nil, fmt.Errorf("making a client: %w", err)
		}
	}
	return c, nil
}

// Nodes are those of the cluster.
func (c *Client) Nodes() *Resource[*corev1.Node, *corev1.NodeList] {
	return newResource[corev1.Node, corev1.NodeList](c, c.core, "nodes", "")
}

// Namespaces are those of the cluster.
func (c *Client) Namespaces() *Resource[*corev1.Namespace, *corev1.NamespaceList] {
	return newResource[corev1.Namespace, corev1.NamespaceList](c, c.core, "namespaces", "")
}

// Pods are those of a namespace, or of all if it is empty.
func (c *Client) Pods(namespace string) *Resource[*corev1.Pod, *corev1.PodList] {
	return newResource[corev1.Pod, corev1.PodList](c, c.core, "pods", namespace)
}

// Services are those of a namespace, or of all if it is empty.
func (c *Client) Services(namespace string) *Resource[*corev1.Service, *corev1.ServiceList] {
	return newResource[corev1.Service, corev1.ServiceList](c, c.core, "services", namespace)
}

// Events are those of a namespace, or of all if it is empty.
func (c *Client) Events(namespace string) *Resource[*corev1.Event, *corev1.EventList] {
	return newResource[corev1.Event, corev1.EventList](c, c.core, "events", namespace)
}

// DaemonSets are those of a namespace, or of all if it is empty.
func (c *Client) DaemonSets(namespace string) *Resource[*appsv1.DaemonSet, *appsv1.DaemonSetList] {
	return newResource[appsv1.DaemonSet, appsv1.DaemonSetList](c, c.apps, "daemonsets", namespace)
}

// Leases are those of a namespace, or of all if it is empty.
func (c *Client) Leases(namespace string) *Resource[*coordinationv1.Lease, *coordinationv1.LeaseList] {
	return newResource[coordinationv1.Lease, coordinationv1.LeaseList](c, c.coordination, "leases", namespace)
}

// PortForwardURL is where a connection to ports of a pod begins.
func (c *Client) PortForwardURL(namespace, pod string) *url.URL {
	return c.core.Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward").URL()
}

// ExecURL is where a connection to a command in a pod begins.
func (c *Client) ExecURL(namespace, pod string, options *corev1.PodExecOptions) *url.URL {
	return c.core.Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("exec").VersionedParams(options, c.params).URL()
}
