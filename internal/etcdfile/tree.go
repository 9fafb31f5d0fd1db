package etcdfile

import "errors"

// tree is a bucket: pages of its own from a root on, or a leaf page inside another for a small one.
type tree struct {
	root   uint64 // 0 for a small one
	inline page
}

// parseTree parses the value of an element that is a bucket.
func parseTree(value []byte) (tree, bool) {
	if len(value) < bucketSize {
		return tree{}, false
	}
	if root := order.Uint64(value); root != 0 {
		return tree{root: root}, true
	}
	p, ok := parsePage(value[bucketSize:])
	return tree{inline: p}, ok && p.flags == leafFlag
}

// direction is the order in which keys are read.
type direction bool

const (
	forwards  direction = false
	backwards direction = true
)

var errChanged = errors.New("its pages changed while they were read")

// each hands the entries of a bucket, in a file that check found sound, to visit.
func (s *structure) each(t tree, d direction, visit func(key, value []byte) error) error {
	if t.root == 0 {
		return s.eachIn(t.inline, 0, d, visit)
	}
	return s.below(t.root, 0, d, visit)
}

func (s *structure) below(id uint64, depth int, d direction, visit func(key, value []byte) error) error {
	if depth > maxDepth || id >= s.pages {
		return corrupt(s.path, "%v", errChanged)
	}
	s.window.touch(id*s.pageSize, headerSize)
	p, _ := parsePage(s.data[id*s.pageSize:][:s.pageSize])
	if p.id != id || p.overflow >= s.pages-id || !p.ofTree() {
		return corrupt(s.path, "%v", errChanged)
	}
	p = s.whole(p)
	if err := s.progress.did(int64(len(p.data))); err != nil {
		return err
	}
	return s.eachIn(p, depth, d, visit)
}

func (s *structure) eachIn(p page, depth int, d direction, visit func(key, value []byte) error) error {
	for n := range int(p.count) {
		i := n
		if d == backwards {
			i = int(p.count) - 1 - n
		}
		e, ok := p.at(i)
		var err error
		switch {
		case !ok:
			err = corrupt(s.path, "%v", errChanged)
		case p.flags == branchFlag:
			err = s.below(e.child, depth+1, d, visit)
			p = s.whole(p) // what is below may have taken its place in the window
		case e.flags&bucketFlag == 0:
			err = visit(e.key, e.value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p page) ofTree() bool { return p.flags == branchFlag || p.flags == leafFlag }
