package live

import (
	"io"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/cmd/requorum/cli/output"
)

// Events shows an operation as the stream's messages, for programs.
type Events struct {
	out    io.Writer
	format output.Format
	err    error
}

// NewEvents returns a view that writes to out in a format other than output.Table.
func NewEvents(out io.Writer, format output.Format) *Events { return &Events{out: out, format: format} }

// Event writes the message. After the first error nothing more is written.
func (e *Events) Event(_ *requorumv1.Operation, event *requorumv1.WatchOperationResponse) {
	if e.err == nil {
		e.err = output.StreamMessage(e.out, e.format, event)
	}
}

// Tick has nothing to do.
func (e *Events) Tick() {}

// Lost has nothing to do: after a break the operation's full state comes again.
func (e *Events) Lost(error) {}

// Close has nothing to do.
func (e *Events) Close() {}

// Err returns the error that writing met, if any.
func (e *Events) Err() error { return e.err }
