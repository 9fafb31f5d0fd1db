// Package failure carries what a person needs to know of something that went wrong: what happened, on
// which node, and what to do about it.
package failure

import (
	"errors"
	"strings"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// Error is a failure on a node, or of the controller where Node is empty.
type Error struct {
	Node    string
	Message string
	Advice  string // what to do; may be empty
	Cause   error  // may be nil
	// Configuration tells that it comes again until somebody changes a configuration.
	Configuration bool
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.Node != "" {
		b.WriteString(e.Node + ": ")
	}
	b.WriteString(e.Message)
	if e.Advice != "" {
		b.WriteString("; " + e.Advice)
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Cause }

// On returns an *Error for a node.
func On(node, message, advice string) *Error {
	return &Error{Node: node, Message: message, Advice: advice}
}

// Of returns what to show of err. Where err joins several, the first that is an *Error gives node and
// advice, and every message is kept.
func Of(step string, err error) *requorumv1.Failure {
	f := &requorumv1.Failure{Step: step, Message: err.Error()}
	var e *Error
	if errors.As(err, &e) {
		f.Node, f.Advice, f.Configuration = e.Node, e.Advice, e.Configuration
		if err.Error() == e.Error() {
			f.Message = e.Message
		}
	}
	return f
}
