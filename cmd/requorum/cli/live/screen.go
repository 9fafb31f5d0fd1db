package live

import (
	"fmt"
	"io"
	"strings"
	"time"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// Terminal describes where a Screen draws.
type Terminal struct {
	Size  func() (columns, rows int) // asked for every frame
	Color bool                       // whether to colour
	ASCII bool                       // whether only ASCII can be shown
}

// Screen shows an operation on a terminal, in place.
type Screen struct {
	out   io.Writer
	term  Terminal
	now   func() time.Time
	op    *requorumv1.Operation
	rate  rates
	lost  error
	drawn []int // width of each line of the last frame
	dirty bool
	next  time.Time
}

// NewScreen returns a view that draws on the terminal behind out.
func NewScreen(out io.Writer, term Terminal, now func() time.Time) *Screen {
	return &Screen{out: out, term: term, now: now, rate: make(rates)}
}

// Event takes the change; the next Tick draws it.
func (s *Screen) Event(op *requorumv1.Operation, _ *requorumv1.WatchOperationResponse) {
	first := s.op == nil
	s.op, s.lost, s.dirty = op, nil, true
	for _, step := range op.GetSteps() {
		for _, task := range step.GetTasks() {
			s.rate.note(task, s.now())
		}
	}
	if first {
		s.draw()
	}
}

// Tick draws a new frame if something changed, and every second for the clocks.
func (s *Screen) Tick() {
	if s.dirty || !s.now().Before(s.next) {
		s.draw()
	}
}

// Lost shows that the stream broke.
func (s *Screen) Lost(err error) {
	s.lost, s.dirty = err, true
	s.draw()
}

// Close draws the last frame, which stays.
func (s *Screen) Close() { s.draw() }

func (s *Screen) draw() {
	s.dirty, s.next = false, s.now().Add(time.Second)
	if s.op == nil {
		return
	}
	columns, rows := s.term.Size()
	var b strings.Builder
	if up := s.rowsDrawn(columns); up > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", up)
	}
	s.drawn = s.drawn[:0]
	for _, l := range s.frame(columns, rows) {
		text, width := l.render(columns, s.term.Color)
		b.WriteString("\r" + text + "\x1b[K\n")
		s.drawn = append(s.drawn, width)
	}
	b.WriteString("\x1b[J")
	// An operation is followed to its end even if the terminal is gone.
	_, _ = io.WriteString(s.out, b.String())
}

// rowsDrawn is how many rows the last frame takes: a terminal made narrower has wrapped its lines.
func (s *Screen) rowsDrawn(columns int) int {
	rows := 0
	for _, width := range s.drawn {
		rows += max(1, (width+columns-1)/columns)
	}
	return rows
}
