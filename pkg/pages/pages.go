// Package pages lists objects of a cluster's API in pages, so that of large clusters only
// what is needed is ever held: a Node has 10 KiB and more, and there may be 5,000.
package pages

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/pager"
)

// Each gives all objects of a list to use, which may change them and keeps what it needs.
func Each[L runtime.Object, O any](ctx context.Context, list func(context.Context, metav1.ListOptions) (L, error), options metav1.ListOptions, use func(*O)) error {
	pages := pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		return list(ctx, options)
	})
	pages.PageBufferSize = 0
	return pages.EachListItem(ctx, options, func(o runtime.Object) error {
		if one, ok := o.(any).(*O); ok {
			use(one)
		}
		return nil
	})
}
