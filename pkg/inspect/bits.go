package inspect

import "bytes"

// bits are a field's value, in which only some bits are known.
type bits struct {
	value, known []byte
	varies       bool // unknown bits differ between packets of one kind
}

func certain(value []byte) bits {
	return bits{value: value, known: bytes.Repeat([]byte{0xff}, len(value))}
}

func uncertain(n uint32) bits { return bits{value: make([]byte, n), known: make([]byte, n)} }

// doubt is the result of a comparison that depends on unknown bits.
func (b bits) doubt() truth {
	return choose(b.varies, some, unknown)
}

// equals compares as many bytes as are given: "eth*" is a comparison of three.
func (b bits) equals(with []byte) truth {
	if len(with) > len(b.value) {
		return unknown
	}
	result := yes
	for i, w := range with {
		if (b.value[i]^w)&b.known[i] != 0 {
			return no
		}
		if b.known[i] != 0xff {
			result = b.doubt()
		}
	}
	return result
}

// within compares with a range. It returns yes or no if all possible values are in it, or none.
func (b bits) within(from, to []byte) truth {
	if len(from) != len(b.value) {
		return unknown
	}
	least, most := make([]byte, len(from)), make([]byte, len(from))
	for i, k := range b.known {
		least[i], most[i] = b.value[i]&k, b.value[i]|^k
	}
	switch {
	case bytes.Compare(most, from) < 0 || bytes.Compare(least, to) > 0:
		return no
	case bytes.Compare(least, from) >= 0 && bytes.Compare(most, to) <= 0:
		return yes
	}
	return b.doubt()
}

func (b bits) atLeast(from []byte) truth {
	return b.within(from, bytes.Repeat([]byte{0xff}, len(from)))
}

// masked applies a mask and then inverts the bits of flip. Bits that the mask clears become known.
func (b bits) masked(mask, flip []byte) bits {
	out := bits{make([]byte, len(b.value)), make([]byte, len(b.value)), b.varies}
	for i := range b.value {
		out.value[i], out.known[i] = b.value[i]&mask[i]^flip[i], b.known[i]|^mask[i]
	}
	return out
}

func (t truth) not(not bool) truth {
	if not && t <= yes {
		return yes - t
	}
	return t
}

func (t truth) and(o truth) truth {
	if t == no || o == no {
		return no
	}
	return max(t, o)
}
