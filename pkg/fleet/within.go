package fleet

import "context"

// within ends with the context, whatever the call does: SPDY's round trip reads its
// answer without a deadline. What comes late is given to drop.
func within[T any](ctx context.Context, call func() (T, error), drop func(T)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		value, err := call()
		done <- outcome{value, err}
	}()
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
		go func() { drop((<-done).value) }()
		var none T
		return none, ctx.Err()
	}
}
