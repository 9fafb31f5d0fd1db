package transfer

import "time"

const (
	// probeBytes is how much is sent one way before its speed is believed. The first half is not counted:
	// it only fills what buffers there are.
	probeBytes = 8 << 20
	// enoughBytes is how much has to be counted before a trial of sending as it is may be given up.
	enoughBytes = 1 << 20
	// firstStay is how much is sent the better way before the other one is tried again; with every trial
	// that changes nothing it doubles, up to longestStay.
	firstStay   = 64 << 20
	longestStay = 1 << 30
	// worthwhile is what compressing has to gain: at most this part of the time that sending as it is takes.
	worthwhile = 0.8
	// hopeless is the part of its size that a chunk is compressed to at best before compressing is given up.
	hopeless = 0.95
	// slowChunk and fastChunk are how long one chunk may and should take.
	slowChunk = 2 * time.Second
	fastChunk = 250 * time.Millisecond
)

// pace decides for each chunk of one stream whether it is compressed, and how large it is.
//
// What counts is the time per byte of the file: what compressing took plus what the stream blocked. It
// is measured sending as it is, then sending compressed; the better way is kept, and the other tried again
// now and then. Comparing the two sums rather than working out the one from the other takes into account
// that the link goes on sending while the next chunk is compressed. A trial ends at once when it cannot
// win: the bytes do not shrink, or compressing alone takes longer than sending did.
type pace struct {
	allowed bool     // the other side takes compressed chunks
	zstd    bool     // how the next chunk is sent
	kept    bool     // how chunks are sent outside of trials
	stay    int      // bytes to send after the next trial before the one after that
	left    int      // bytes until the present trial or stay is over
	skip    int      // bytes not counted yet
	now     speed    // of the present trial or stay
	speed   [2]speed // as last measured: as it is, compressed
	chunk   int      // size of the next chunk, in bytes
}

// speed is a time and the bytes of the file that it was for.
type speed struct {
	spent time.Duration
	raw   int
}

func (s speed) perByte() float64 {
	if s.raw == 0 {
		return 0
	}
	return float64(s.spent) / float64(s.raw)
}

func newPace(acceptZstd bool) *pace {
	p := &pace{allowed: acceptZstd, stay: firstStay, chunk: maxChunk}
	p.begin(false, probeBytes)
	return p
}

// compress tells whether the next chunk is to be compressed.
func (p *pace) compress() bool { return p.zstd }

// size tells how large the next chunk may be, in bytes: a chunk must not take so long that the other side
// believes the stream dead.
func (p *pace) size() int { return p.chunk }

// sent reports one chunk: its size in the file and on the wire, the time that compressing took and the time
// that the stream blocked.
func (p *pace) sent(raw, wire int, compressing, blocked time.Duration) {
	p.resize(blocked)
	if !p.allowed {
		return
	}
	if p.skip > 0 {
		p.skip -= raw
	} else {
		p.now.spent += compressing + blocked
		p.now.raw += raw
	}
	p.left -= raw
	switch {
	case p.trial() && (p.left <= 0 || p.lost(raw, wire, compressing)):
		p.settle()
	case p.left <= 0:
		p.speed[way(p.kept)] = p.now
		p.begin(!p.kept, probeBytes)
	}
}

func (p *pace) resize(blocked time.Duration) {
	switch {
	case blocked > slowChunk:
		p.chunk = max(minChunk, p.chunk/2)
	case blocked < fastChunk:
		p.chunk = min(maxChunk, p.chunk*2)
	}
}

func (p *pace) trial() bool { return p.zstd != p.kept }

// lost tells whether the present trial cannot win any more, given its latest chunk.
func (p *pace) lost(raw, wire int, compressing time.Duration) bool {
	if p.zstd {
		alone := float64(compressing) / float64(raw)
		return float64(wire) > hopeless*float64(raw) || alone > worthwhile*p.speed[0].perByte()
	}
	return p.now.raw >= enoughBytes && worthwhile*p.now.perByte() > p.speed[1].perByte()
}

// settle ends a trial: the better way is kept from now on.
func (p *pace) settle() {
	before, tried := p.kept, p.zstd
	complete := p.left <= 0
	if complete {
		p.speed[way(tried)] = p.now
		p.kept = p.speed[1].perByte() < worthwhile*p.speed[0].perByte()
	}
	stay := firstStay
	if p.kept == before {
		stay = p.stay
		p.stay = min(longestStay, 2*p.stay)
	} else {
		p.stay = 2 * firstStay
	}
	p.begin(p.kept, stay)
}

// begin sends one way for so many bytes and measures it.
func (p *pace) begin(zstd bool, bytes int) {
	p.zstd, p.left, p.skip, p.now = zstd, bytes, probeBytes/2, speed{}
}

func way(zstd bool) int {
	if zstd {
		return 1
	}
	return 0
}
