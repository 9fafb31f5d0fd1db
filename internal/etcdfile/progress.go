package etcdfile

import "context"

const tickEvery = 1 << 20 // bytes

// progress reports work done and notices cancellation, once for each MiB.
type progress struct {
	ctx     context.Context
	tick    func(n int64)
	pending int64
}

// did notes n more bytes. It returns the context's cause when that is done.
func (p *progress) did(n int64) error {
	if p.pending += n; p.pending < tickEvery {
		return nil
	}
	return p.flush()
}

func (p *progress) flush() error {
	if p.tick != nil && p.pending > 0 {
		p.tick(p.pending)
	}
	p.pending = 0
	return context.Cause(p.ctx)
}
