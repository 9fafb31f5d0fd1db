package live

import (
	"io"
	"time"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// transferEvery is the least time between two pictures of a transfer.
const transferEvery = 200 * time.Millisecond

// Transfer shows one transfer of bytes on a line of a terminal.
type Transfer struct {
	screen *Screen
	from   string
}

// NewTransfer returns a line, not drawn yet, that names where the bytes come from.
func NewTransfer(out io.Writer, term Terminal, now func() time.Time, from string) *Transfer {
	return &Transfer{screen: NewScreen(out, term, now), from: from}
}

// Show draws how far the transfer is, if it is time for another picture.
func (t *Transfer) Show(done, total int64) {
	now := t.screen.now()
	task := &requorumv1.TaskProgress{Node: t.from, State: requorumv1.StepState_STEP_STATE_DOING, DoneBytes: done, TotalBytes: total}
	if now.Before(t.screen.next) {
		return
	}
	t.screen.next = now.Add(transferEvery)
	t.screen.rate.note(task, now)
	columns, _ := t.screen.term.Size()
	text, _ := t.screen.task(task, 0).render(columns, t.screen.term.Color)
	t.write("\r" + text + "\x1b[K")
}

// Close takes the line away.
func (t *Transfer) Close() { t.write("\r\x1b[K") }

// write cannot report an error: the transfer goes on even if nobody looks.
func (t *Transfer) write(text string) { _, _ = io.WriteString(t.screen.out, text) }
