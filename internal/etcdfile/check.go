package etcdfile

import "bytes"

// check looks at every page reachable from the newest meta page: that it is inside the file, used once, of a
// known type, and in the order of its keys. It returns a *CorruptError if anything is wrong, and otherwise the
// buckets. Meanwhile it hands their entries to visit, buckets and entries from the last to the first; what was
// visited does not count unless all is well.
func (s *structure) check(visit func(bucket string, key, value []byte) error) (map[string]tree, error) {
	s.used = make(bitset, s.pages/64+1)
	for id := range uint64(2) {
		s.use(id)
		if p, _ := parsePage(s.data[id*s.pageSize:]); p.id != id || p.flags != metaFlag {
			s.found.add("page %d is no meta page", id)
		}
	}
	w := &walk{structure: s, visit: visit, buckets: map[string]tree{}}
	if err := w.page(s.root, span{}, 0, w.top); err != nil {
		return nil, err
	}
	if s.freelist != noFreelist {
		s.checkFreelist()
	}
	if len(s.found.Problems) > 0 {
		return nil, s.found
	}
	return w.buckets, s.progress.flush()
}

// walk checks a tree from its last key to its first.
type walk struct {
	*structure
	visit   func(bucket string, key, value []byte) error
	buckets map[string]tree
}

// entry takes an element of the leaf page id.
type entry func(id uint64, e element, depth int) error

// span holds the keys that a page may have: from min on, below max. nil is no bound.
type span struct{ min, max []byte }

// page checks the page and everything below it. It returns an error only when the context is done, or visit's.
func (w *walk) page(id uint64, keys span, depth int, take entry) error {
	if depth > maxDepth {
		w.found.add("page %d: the tree is deeper than %d pages", id, maxDepth)
		return nil
	}
	p, ok := w.treePage(id)
	if !ok {
		return nil
	}
	err := w.progress.did(int64(len(p.data)))
	if err != nil {
		return err
	}
	if !w.checkElements(p, id, keys) {
		return nil
	}
	for i := int(p.count) - 1; i >= 0; i-- {
		e, _ := p.at(i)
		if p.flags == leafFlag {
			err = take(id, e, depth)
		} else {
			below := span{bytes.Clone(e.key), keys.max}
			err = w.page(e.child, below, depth+1, take)
			keys.max = below.min
		}
		if err != nil {
			return err
		}
		if p.flags == branchFlag || e.flags&bucketFlag != 0 {
			p = w.whole(p) // what is below may have taken its place in the window
		}
	}
	return nil
}

// top takes an element of the file's own tree, in which only the buckets are of interest.
func (w *walk) top(id uint64, e element, depth int) error {
	if e.flags&bucketFlag == 0 {
		return nil
	}
	name := string(e.key)
	return w.bucket(id, e, depth, name, func(id uint64, e element, depth int) error {
		if e.flags&bucketFlag != 0 {
			return w.bucket(id, e, depth, "", w.nested)
		}
		return w.visit(name, e.key, e.value)
	})
}

// nested takes an element of a bucket in a bucket. etcd makes none.
func (w *walk) nested(id uint64, e element, depth int) error {
	if e.flags&bucketFlag == 0 {
		return nil
	}
	return w.bucket(id, e, depth, "", w.nested)
}

// bucket checks the bucket that is the value of a leaf element: a tree of its own, or a page inside the value
// for a small one.
func (w *walk) bucket(id uint64, e element, depth int, name string, take entry) error {
	t, ok := parseTree(e.value)
	if !ok {
		w.found.add("page %d: a bucket in it is no bucket", id)
		return nil
	}
	if name != "" {
		w.buckets[name] = t
	}
	if t.root != 0 {
		return w.page(t.root, span{}, depth+1, take)
	}
	if !w.checkElements(t.inline, id, span{}) {
		return nil
	}
	for i := int(t.inline.count) - 1; i >= 0; i-- {
		e, _ := t.inline.at(i)
		if e.flags&bucketFlag != 0 {
			w.found.add("page %d: a bucket in an inline bucket", id)
			continue
		}
		if err := take(id, e, depth); err != nil {
			return err
		}
	}
	return nil
}

// checkElements tells whether all elements lie inside of the page, which is page id or inline in that, and
// notes those that are out of order.
func (w *walk) checkElements(p page, id uint64, keys span) bool {
	if p.flags == branchFlag && p.count == 0 {
		w.found.add("page %d: a branch without children", id)
		return false
	}
	var before []byte
	for i := range int(p.count) {
		e, ok := p.at(i)
		if !ok {
			w.found.add("page %d: element %d of %d reaches out of the page", id, i, p.count)
			return false
		}
		switch {
		case len(e.key) == 0:
			w.found.add("page %d: key %d is empty", id, i)
		case i > 0 && bytes.Compare(before, e.key) >= 0:
			w.found.add("page %d: key %d is not above the key before it", id, i)
		case i == 0 && keys.min != nil && bytes.Compare(e.key, keys.min) < 0:
			w.found.add("page %d: its first key is below its parent's key", id)
		case keys.max != nil && bytes.Compare(e.key, keys.max) >= 0:
			w.found.add("page %d: key %d is not below its parent's next key", id, i)
		}
		before = e.key
	}
	return true
}

// treePage returns a branch or leaf page and marks it and its overflow as used.
func (s *structure) treePage(id uint64) (page, bool) {
	p, ok := s.extent(id)
	if !ok {
		return page{}, false
	}
	if !p.ofTree() {
		s.found.add("page %d: flags %#x are of no branch and no leaf", id, p.flags)
		return page{}, false
	}
	return p, true
}
