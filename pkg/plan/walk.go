package plan

func walk[T any](desired, actual []T, compare func(T, T) int, onlyDesired, onlyActual func(T), both func(desired, actual T)) {
	for len(desired) > 0 && len(actual) > 0 {
		switch order := compare(desired[0], actual[0]); {
		case order < 0:
			onlyDesired(desired[0])
			desired = desired[1:]
		case order > 0:
			onlyActual(actual[0])
			actual = actual[1:]
		default:
			both(desired[0], actual[0])
			desired, actual = desired[1:], actual[1:]
		}
	}
	for _, x := range desired {
		onlyDesired(x)
	}
	for _, x := range actual {
		onlyActual(x)
	}
}

// differing cuts off the common beginning and end of two lists, which is nearly all if one Node of
// thousands changed.
func differing[T any](a, b []T, same func(T, T) bool) (restA, restB []T) {
	if len(a) == len(b) && len(a) > 0 && &a[0] == &b[0] {
		return nil, nil
	}
	n := 0
	for n < min(len(a), len(b)) && same(a[n], b[n]) {
		n++
	}
	a, b = a[n:], b[n:]
	for len(a) > 0 && len(b) > 0 && same(a[len(a)-1], b[len(b)-1]) {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	return a, b
}

func equal[T comparable](a, b T) bool { return a == b }

// union merges two sorted lists; of equal elements it has a's.
func union[T any](a, b []T, compare func(T, T) int) []T {
	all := make([]T, 0, max(len(a), len(b)))
	keep := func(x T) { all = append(all, x) }
	walk(a, b, compare, keep, keep, func(x, _ T) { keep(x) })
	return all
}

// DiffSorted returns the elements that only the desired list has, and those that only the actual one
// has.
func DiffSorted[T comparable](desired, actual []T, compare func(T, T) int) (add, remove []T) {
	desired, actual = differing(desired, actual, equal)
	walk(desired, actual, compare,
		func(x T) { add = append(add, x) }, func(x T) { remove = append(remove, x) }, func(T, T) {})
	return add, remove
}

// diffList returns the Changes between two sorted lists; elements that compare as equal have one
// key.
func diffList[T comparable](desired, actual []T, compare func(T, T) int, object func(T) Object) Changes {
	c := make(Changes, 0, max(len(desired), len(actual)))
	walk(desired, actual, compare,
		func(x T) { c = append(c, Change{Add, object(x)}) },
		func(x T) { c = append(c, Change{Delete, object(x)}) },
		func(want, have T) {
			if want != have {
				c = append(c, Change{Replace, object(want)})
			}
		})
	return c
}
