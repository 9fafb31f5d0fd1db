package etcdfile

// bitset is a set of small numbers.
type bitset []uint64

func (b bitset) get(i uint64) bool { return b[i/64]&(1<<(i%64)) != 0 }

func (b bitset) set(i uint64) { b[i/64] |= 1 << (i % 64) }

func (b bitset) clear(i uint64) { b[i/64] &^= 1 << (i % 64) }

// put sets i if is, and grows the set by one word where i is the first beyond it.
func (b bitset) put(i uint64, is bool) bitset {
	if i/64 == uint64(len(b)) {
		b = append(b, 0)
	}
	if is {
		b.set(i)
	}
	return b
}
