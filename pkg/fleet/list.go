package fleet

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/pager"
)

// Each lists objects page by page, because a large cluster has 5,000 Nodes of 10 KiB and more, and
// passes each to use, which may change and keep it.
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
