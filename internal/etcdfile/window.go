package etcdfile

import "golang.org/x/sys/unix"

const (
	// blockSize is how much the kernel maps around a page that is touched (fault_around_bytes, 64 KiB by
	// default), in bytes. Blocks need not lie as the kernel's do: then two of its are mapped for one of ours.
	blockSize = 64 << 10
	// maxBlocks bounds what of the file is mapped at a time: 8 MiB, or twice that where blocks lie badly.
	maxBlocks = 128
)

// window keeps few blocks of a mapped file resident: the one that was touched first goes first. What goes stays
// in the page cache; only the process gives it back.
type window struct {
	data     []byte
	resident bitset
	order    [maxBlocks]uint64 // a ring
	next     int
	full     bool
}

func newWindow(data []byte) *window {
	// Whole huge pages would be mapped otherwise. A kernel without them refuses the advice.
	_ = unix.Madvise(data, unix.MADV_NOHUGEPAGE)
	return &window{data: data, resident: make(bitset, uint64(len(data))/blockSize/64+1)}
}

// touch has to come before n bytes at an offset are looked at.
func (w *window) touch(offset, n uint64) {
	for b := offset / blockSize; b*blockSize < offset+n; b++ {
		if w.resident.get(b) {
			continue
		}
		if w.full {
			w.release(w.order[w.next])
		}
		w.resident.set(b)
		w.order[w.next] = b
		w.next = (w.next + 1) % maxBlocks
		w.full = w.full || w.next == 0
	}
}

func (w *window) release(b uint64) {
	w.resident.clear(b)
	from := b*blockSize - min(b, 1)*blockSize
	to := min((b+2)*blockSize, uint64(len(w.data)))
	// If it cannot be released it stays, which costs memory and nothing else.
	_ = unix.Madvise(w.data[from:to], unix.MADV_DONTNEED)
}
