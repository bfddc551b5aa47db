package kube

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

// Resource is the objects of a kind, of the cluster or of one namespace. O is a pointer to the type of
// an object, L to that of a list. client-go/gentype is the same, and imports its fakes.
type Resource[O, L runtime.Object] struct {
	client          rest.Interface
	params          runtime.ParameterCodec
	name, namespace string
	newObject       func() O
	newList         func() L
}

// pointer is *T, which is an object.
type pointer[T any] interface {
	*T
	runtime.Object
}

func newResource[T, S any, O pointer[T], L pointer[S]](c *Client, client rest.Interface, name, namespace string) *Resource[O, L] {
	return &Resource[O, L]{client, c.params, name, namespace, func() O { return new(T) }, func() L { return new(S) }}
}

// of addresses the resource. Answers are in protobuf unless the config says otherwise: they are half as
// large as JSON.
func (r *Resource[O, L]) of(request *rest.Request) *rest.Request {
	return request.UseProtobufAsDefaultIfPreferred(true).NamespaceIfScoped(r.namespace, r.namespace != "").Resource(r.name)
}

// Get returns an object.
func (r *Resource[O, L]) Get(ctx context.Context, name string, options metav1.GetOptions) (O, error) {
	object := r.newObject()
	err := r.of(r.client.Get()).Name(name).VersionedParams(&options, r.params).Do(ctx).Into(object)
	return object, err
}

// List returns the objects that the options select.
func (r *Resource[O, L]) List(ctx context.Context, options metav1.ListOptions) (L, error) {
	list := r.newList()
	err := r.of(r.client.Get()).VersionedParams(&options, r.params).Do(ctx).Into(list)
	return list, err
}

// Create creates an object, and returns what the server made of it.
func (r *Resource[O, L]) Create(ctx context.Context, object O, options metav1.CreateOptions) (O, error) {
	created := r.newObject()
	err := r.of(r.client.Post()).VersionedParams(&options, r.params).Body(object).Do(ctx).Into(created)
	return created, err
}

// Patch changes an object or a subresource of it, and returns the object after that.
func (r *Resource[O, L]) Patch(ctx context.Context, name string, kind types.PatchType, patch []byte, options metav1.PatchOptions, subresources ...string) (O, error) {
	patched := r.newObject()
	err := r.of(r.client.Patch(kind)).Name(name).SubResource(subresources...).VersionedParams(&options, r.params).Body(patch).Do(ctx).Into(patched)
	return patched, err
}

// Delete deletes an object.
func (r *Resource[O, L]) Delete(ctx context.Context, name string, options metav1.DeleteOptions) error {
	return r.of(r.client.Delete()).Name(name).Body(&options).Do(ctx).Error()
}

// DeleteCollection deletes the objects that which selects.
func (r *Resource[O, L]) DeleteCollection(ctx context.Context, options metav1.DeleteOptions, which metav1.ListOptions) error {
	return r.of(r.client.Delete()).VersionedParams(&which, r.params).Body(&options).Do(ctx).Error()
}
