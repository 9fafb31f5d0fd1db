package etcdfile

// bitset is a set of small numbers.
type bitset []uint64

func (b bitset) get(i uint64) bool { return b[i/64]&(1<<(i%64)) != 0 }

func (b bitset) set(i uint64) { b[i/64] |= 1 << (i % 64) }

// append grows the set so that it can hold i.
func (b bitset) append(i uint64, is bool) bitset {
	if i/64 == uint64(len(b)) {
		b = append(b, 0)
	}
	if is {
		b.set(i)
	}
	return b
}
