package etcdfile

// SetKeysAtOnce makes files be read in parts that have more keys than fit into so many slots, a power of two,
// until restore is called.
func SetKeysAtOnce(slots uint64) (restore func()) {
	before := maxSlots
	maxSlots = slots
	return func() { maxSlots = before }
}
