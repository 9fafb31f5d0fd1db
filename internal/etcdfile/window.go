package etcdfile

import (
	"slices"

	"golang.org/x/sys/unix"
)

const (
	// blockSize is how much the kernel maps around a page that is touched (fault_around_bytes, 64 KiB by
	// default), in bytes. Blocks need not lie as the kernel's do: then two of its are mapped for one of ours.
	blockSize = 64 << 10
	// maxBlocks bounds what of the file is mapped at a time: 8 MiB, or twice that where blocks lie badly.
	maxBlocks = 128
)

// window keeps few blocks of a mapped file resident. What it releases stays in the page cache; only the process
// gives it back.
type window struct {
	data     []byte
	resident bitset
	blocks   []uint64 // those that are resident, each once
}

func newWindow(data []byte) *window {
	// Whole huge pages would be mapped otherwise. A kernel without them refuses the advice.
	_ = unix.Madvise(data, unix.MADV_NOHUGEPAGE)
	return &window{data: data, resident: make(bitset, uint64(len(data))/blockSize/64+1)}
}

// touch has to come before n bytes at an offset are looked at, and again after others were.
func (w *window) touch(offset, n uint64) {
	first, last := offset/blockSize, (offset+n-1)/blockSize
	if len(w.blocks)+int(last-first) >= maxBlocks {
		w.release()
	}
	for b := first; b <= last; b++ {
		if !w.resident.get(b) {
			w.resident.set(b)
			w.blocks = append(w.blocks, b)
		}
	}
}

// release gives all blocks back, those that follow each other at once.
func (w *window) release() {
	slices.Sort(w.blocks)
	for left := w.blocks; len(left) > 0; {
		n := 1
		for n < len(left) && left[n] == left[n-1]+1 {
			n++
		}
		w.releaseRun(left[0], left[n-1])
		left = left[n:]
	}
	w.blocks = w.blocks[:0]
}

// releaseRun gives blocks back, and those beside them, into which what the kernel mapped may reach.
func (w *window) releaseRun(first, last uint64) {
	for b := first; b <= last; b++ {
		w.resident.clear(b)
	}
	from := first*blockSize - min(first, 1)*blockSize
	to := min((last+2)*blockSize, uint64(len(w.data)))
	// If it cannot be released it stays, which costs memory and nothing else.
	_ = unix.Madvise(w.data[from:to], unix.MADV_DONTNEED)
}
