package etcdfile

import (
	"encoding/binary"
	"hash/fnv"
)

// bbolt's file format, version 2, in the byte order of the machine. It has not changed since 2014.
const (
	metaMagic   = 0xED0CDAED
	metaVersion = 2
	metaSize    = 64 // bytes, its checksum included
	headerSize  = 16 // of a page: id, flags, count, overflow
	elementSize = 16 // of an entry in a branch or leaf page
	bucketSize  = 16 // of a bucket's value: root page, sequence

	branchFlag   = 0x01
	leafFlag     = 0x02
	metaFlag     = 0x04
	freelistFlag = 0x10
	bucketFlag   = 0x01 // of a leaf element

	noFreelist = ^uint64(0) // etcd does not persist the list of free pages

	maxDepth = 64 // far beyond any real tree: bbolt's pages hold hundreds of elements
)

var order = binary.NativeEndian

// structure is the tree of pages in a mapped file: check says whether it is sound, each reads what is.
type structure struct {
	path     string
	data     []byte // the whole file, mapped
	window   *window
	pageSize uint64
	pages    uint64 // high-water mark: IDs are below it
	freelist uint64
	root     uint64
	used     bitset
	usedN    int64 // pages in use
	found    *CorruptError
	progress *progress
}

func newStructure(path string, data []byte, p *progress) *structure {
	return &structure{path: path, data: data, window: newWindow(data), progress: p, found: &CorruptError{Path: path}}
}

// open finds the newest tree. It returns a *CorruptError where there is none.
func (s *structure) open() error {
	if !s.readMeta() {
		return corrupt(s.path, "no valid meta page")
	}
	if have, want := uint64(len(s.data))/s.pageSize, max(s.pages, 2); have < want {
		return corrupt(s.path, "it is cut off: %d bytes, %d pages of %d bytes expected", len(s.data), want, s.pageSize)
	}
	return nil
}

func (s *structure) inUse() int64 { return s.usedN * int64(s.pageSize) }

// readMeta takes page size, root and high-water mark from the valid meta page with the highest transaction ID.
func (s *structure) readMeta() bool {
	first := parseMeta(s.data, 0)
	size := uint64(0)
	if first != nil {
		size = first.pageSize
	}
	for at := uint64(1024); size == 0 && at <= 1024<<14; at *= 2 {
		if m := parseMeta(s.data, at); m != nil && m.pageSize == at {
			size = at
		}
	}
	if size < 1024 || size > 1<<24 || size&(size-1) != 0 {
		return false
	}
	newest := first
	if second := parseMeta(s.data, size); second != nil && (newest == nil || second.txid > newest.txid) {
		newest = second
	}
	s.pageSize, s.root, s.freelist, s.pages = size, newest.root, newest.freelist, newest.pages
	return true
}

type meta struct{ pageSize, root, freelist, pages, txid uint64 }

// parseMeta returns nil where there is no valid meta page.
func parseMeta(data []byte, at uint64) *meta {
	if at+headerSize+metaSize > uint64(len(data)) {
		return nil
	}
	b := data[at+headerSize:][:metaSize]
	sum := fnv.New64a()
	_, _ = sum.Write(b[:56]) // never fails
	if order.Uint32(b) != metaMagic || order.Uint32(b[4:]) != metaVersion || order.Uint64(b[56:]) != sum.Sum64() {
		return nil
	}
	return &meta{
		pageSize: uint64(order.Uint32(b[8:])), root: order.Uint64(b[16:]),
		freelist: order.Uint64(b[32:]), pages: order.Uint64(b[40:]), txid: order.Uint64(b[48:]),
	}
}

// extent returns the page with its overflow, all inside the file and not used before.
func (s *structure) extent(id uint64) (page, bool) {
	if id < 2 || id >= s.pages {
		s.found.add("page %d is outside of the %d pages", id, s.pages)
		return page{}, false
	}
	s.window.touch(id*s.pageSize, headerSize)
	p, _ := parsePage(s.data[id*s.pageSize:][:s.pageSize]) // a page is larger than its header
	if p.id != id {
		s.found.add("page %d says that it is page %d", id, p.id)
		return page{}, false
	}
	if p.overflow >= s.pages-id {
		s.found.add("page %d overflows to %d pages, beyond the last", id, p.overflow)
		return page{}, false
	}
	for i := id; i <= id+p.overflow; i++ {
		if !s.use(i) {
			s.found.add("page %d is used twice", i)
			return page{}, false
		}
	}
	return s.whole(p), true
}

// whole returns the page with its overflow, which must be inside the file.
func (s *structure) whole(p page) page {
	p.data = s.data[p.id*s.pageSize:][:(p.overflow+1)*s.pageSize]
	s.window.touch(p.id*s.pageSize, uint64(len(p.data)))
	return p
}

func (s *structure) use(id uint64) (first bool) {
	if s.used.get(id) {
		return false
	}
	s.used.set(id)
	s.usedN++
	return true
}

// checkFreelist checks that every page is either used or free.
func (s *structure) checkFreelist() {
	p, ok := s.extent(s.freelist)
	if !ok {
		return
	}
	n, ids := uint64(p.count), p.data[headerSize:]
	if n == 0xFFFF { // the number is in the first place of the list
		n, ids = order.Uint64(ids), ids[8:]
	}
	if p.flags != freelistFlag || n > uint64(len(ids))/8 {
		s.found.add("page %d: no list of free pages", s.freelist)
		return
	}
	free := make(bitset, s.pages/64+1)
	for ; n > 0; n, ids = n-1, ids[8:] {
		id := order.Uint64(ids)
		if id < 2 || id >= s.pages || free.get(id) || s.used.get(id) {
			s.found.add("page %d cannot be free", id)
			continue
		}
		free.set(id)
	}
	for id := range s.pages {
		if !s.used.get(id) && !free.get(id) {
			s.found.add("page %d is neither used nor free", id)
		}
	}
}

type page struct {
	id, overflow uint64
	flags, count uint16
	data         []byte
}

type element struct {
	flags      uint32
	key, value []byte // value of a leaf's element
	child      uint64 // of a branch's element
}

func parsePage(data []byte) (page, bool) {
	if len(data) < headerSize {
		return page{}, false
	}
	return page{
		id: order.Uint64(data), flags: order.Uint16(data[8:]), count: order.Uint16(data[10:]),
		overflow: uint64(order.Uint32(data[12:])), data: data,
	}, true
}

// at returns the i-th element. ok is false where it reaches out of the page.
func (p page) at(i int) (e element, ok bool) {
	at := headerSize + i*elementSize
	if at+elementSize > len(p.data) {
		return element{}, false
	}
	return p.element(p.data[at:])
}

// element parses the element at the start of b. Its key and value are at an offset from there.
func (p page) element(b []byte) (element, bool) {
	if p.flags == branchFlag {
		pos, size := uint64(order.Uint32(b)), uint64(order.Uint32(b[4:]))
		if pos+size > uint64(len(b)) {
			return element{}, false
		}
		return element{key: b[pos:][:size], child: order.Uint64(b[8:])}, true
	}
	pos, ksize, vsize := uint64(order.Uint32(b[4:])), uint64(order.Uint32(b[8:])), uint64(order.Uint32(b[12:]))
	if pos+ksize+vsize > uint64(len(b)) {
		return element{}, false
	}
	return element{flags: order.Uint32(b), key: b[pos:][:ksize], value: b[pos+ksize:][:vsize]}, true
}
