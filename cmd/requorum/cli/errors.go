package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"google.golang.org/genproto/googleapis/rpc/errdetails"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/cmd/requorum/cli/live"
	"github.com/requorum/requorum/cmd/requorum/cli/output"
)

// The exit codes.
const (
	ExitDone           = 0 // done; nothing else ends with 0
	ExitError          = 1 // any other error
	ExitUsage          = 2 // called or configured wrongly
	ExitRefused        = 3 // refused before anything was changed
	ExitReverted       = 4 // failed, and everything is as it was
	ExitNeedsAttention = 5 // failed, or was abandoned, and a person is needed
)

// UsageError says that a command was called wrongly; it ends with ExitUsage and a hint at the help.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap returns what is wrong.
func (e *UsageError) Unwrap() error { return e.Err }

func usagef(format string, args ...any) error {
	return &UsageError{Err: fmt.Errorf(format, args...)}
}

// RefusedError says that something was refused before anything was changed; it ends with ExitRefused.
type RefusedError struct {
	Message string
	Hints   []string // what to do, a line each
}

func (e *RefusedError) Error() string { return e.Message }

// Advice returns what to do, a line each.
func (e *RefusedError) Advice() []string { return e.Hints }

// OperationError says that an operation did not succeed.
type OperationError struct{ Operation *requorumv1.Operation }

func (e *OperationError) Error() string {
	op := e.Operation
	if op.GetAttention() != "" && !live.Ended(op) {
		attention, log := withLog(op.GetAttention())
		if len(log) > 0 {
			attention += " …"
		}
		return live.Subject(op) + " needs a person: " + attention
	}
	failure := op.GetFailure()
	if failure == nil {
		return strings.TrimSuffix(live.Subject(op)+": "+live.State(op.GetState())+": "+op.GetAttention(), ": ")
	}
	at := failure.GetStep()
	message, _ := withLog(failure.GetMessage())
	if failure.GetNode() != "" {
		at = strings.TrimSpace(at + " on " + failure.GetNode())
		message = strings.TrimPrefix(message, failure.GetNode()+": ")
	}
	if at == "" {
		return live.Subject(op) + ": " + message
	}
	return fmt.Sprintf("%s: %s: %s", live.Subject(op), at, message)
}

// Advice returns how things stand and what to do, a line each.
func (e *OperationError) Advice() []string {
	var lines []string
	op := e.Operation
	switch {
	case op.GetState() == requorumv1.OperationState_OPERATION_STATE_REFUSED:
		lines = append(lines, "nothing was stopped or changed")
	case op.GetState() == requorumv1.OperationState_OPERATION_STATE_REVERTED:
		lines = append(lines, "everything is as it was before")
	case op.GetState() == requorumv1.OperationState_OPERATION_STATE_ABANDONED:
		lines = append(lines, "it was abandoned: requorum does nothing more about it, and a person has to look at what it left")
		if op.GetAttention() != "" && op.GetFailure() != nil {
			lines = append(lines, op.GetAttention())
		}
	case op.GetAttention() != "":
		lines = append(lines, "requorum keeps trying; follow it with: requorum operation watch "+op.GetId())
		if f := op.GetFailure(); f != nil {
			began, _ := withLog(strings.TrimPrefix(f.GetMessage(), f.GetNode()+": "))
			lines = append(lines, "it began with "+strings.TrimSpace(f.GetStep()+" "+f.GetNode())+": "+began)
		}
	}
	lines = append(lines, logged(op)...)
	if advice := op.GetFailure().GetAdvice(); advice != "" {
		lines = append(lines, advice)
	}
	return lines
}

// logTail is how many lines of a log an error shows.
const logTail = 5

// logged returns the last lines of the log that came with an operation's failure, which what it asks of a
// person may repeat.
func logged(op *requorumv1.Operation) []string {
	_, log := withLog(op.GetFailure().GetMessage())
	if len(log) == 0 && !live.Ended(op) {
		_, log = withLog(op.GetAttention())
	}
	var lines []string
	for _, line := range log[max(0, len(log)-logTail):] {
		lines = append(lines, "  "+line)
	}
	return lines
}

// withLog separates a message from the lines of a log beneath it.
func withLog(message string) (first string, log []string) {
	lines := strings.Split(strings.TrimSpace(message), "\n")
	for _, line := range lines[1:] {
		if line = strings.TrimSpace(line); line != "" {
			log = append(log, line)
		}
	}
	return strings.TrimSpace(lines[0]), log
}

func (e *OperationError) exit() int {
	switch e.Operation.GetState() {
	case requorumv1.OperationState_OPERATION_STATE_REFUSED:
		return ExitRefused
	case requorumv1.OperationState_OPERATION_STATE_REVERTED:
		return ExitReverted
	case requorumv1.OperationState_OPERATION_STATE_ABANDONED:
		return ExitNeedsAttention
	}
	if e.Operation.GetAttention() != "" {
		return ExitNeedsAttention
	}
	return ExitError
}

// adviser is an error that knows what to do about it.
type adviser interface{ Advice() []string }

type advisedError struct {
	error
	hints []string
}

func (e *advisedError) Unwrap() error { return e.error }

// Advice returns what to do, after what the error within advises.
func (e *advisedError) Advice() []string {
	var inner adviser
	if errors.As(e.error, &inner) {
		return append(inner.Advice(), e.hints...)
	}
	return e.hints
}

func advised(err error, hints ...string) error { return &advisedError{err, hints} }

// rpcError is an error of the API in words for people.
type rpcError struct {
	status  *status.Status
	message string
	hints   []string
}

func (e *rpcError) Error() string { return e.message }

// GRPCStatus returns the status, for status.Code.
func (e *rpcError) GRPCStatus() *status.Status { return e.status }

// Advice returns what the controller advises, a line each.
func (e *rpcError) Advice() []string { return e.hints }

// readable turns an error of gRPC into one for people.
func readable(controller string, err error) error {
	st, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	e := &rpcError{status: st, message: onItsNode(st), hints: hints(st)}
	switch {
	case st.Code() == codes.Unavailable && brokenLink(st.Message()):
		e.message = fmt.Sprintf("controller %s does not answer: %s", controller, innermost(st.Message()))
		if strings.Contains(st.Message(), "refused") || strings.Contains(st.Message(), "no such host") {
			e.hints = append(e.hints, "is it running, and is that its address? see --controller and --config")
		}
	case st.Code() == codes.DeadlineExceeded:
		e.message = fmt.Sprintf("controller %s took too long to answer", controller)
	case st.Code() == codes.Unimplemented:
		e.message = fmt.Sprintf("controller %s cannot do this: %s", controller, st.Message())
		e.hints = append(e.hints, "it may be of another version than this command")
	}
	return e
}

// onItsNode is a status' message that begins with the node it is about, where the status names one.
func onItsNode(st *status.Status) string {
	for _, detail := range st.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return onNode(info.GetMetadata()["node"], st.Message())
		}
	}
	return st.Message()
}

// brokenLink tells gRPC's own messages from the controller's.
func brokenLink(message string) bool {
	for _, begin := range []string{"connection error", "error reading", "name resolver", "last connection error", "closing transport", "transport", "keepalive"} {
		if strings.HasPrefix(message, begin) {
			return true
		}
	}
	return strings.Contains(message, "connection error")
}

// innermost takes gRPC's wrapping off a connection's error.
func innermost(message string) string {
	if i := strings.LastIndex(message, `desc = "`); i >= 0 {
		message = strings.TrimSuffix(message[i+len(`desc = "`):], `"`)
	}
	for _, noise := range []string{"transport: ", "Error while dialing: ", "authentication handshake failed: "} {
		message = strings.TrimPrefix(message, noise)
	}
	return message
}

// hints collects what a status says beside its message.
func hints(st *status.Status) []string {
	var lines []string
	for _, detail := range st.Details() {
		switch d := detail.(type) {
		case *errdetails.PreconditionFailure:
			for _, v := range d.GetViolations() {
				lines = append(lines, subjectAnd(v.GetSubject(), v.GetDescription()))
			}
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				lines = append(lines, subjectAnd(v.GetField(), v.GetDescription()))
			}
		case *errdetails.ErrorInfo:
			if advice := d.GetMetadata()["advice"]; advice != "" {
				lines = append(lines, advice)
			}
		case *errdetails.Help:
			for _, link := range d.GetLinks() {
				lines = append(lines, strings.TrimSpace(link.GetDescription()+" "+link.GetUrl()))
			}
		}
	}
	return lines
}

func subjectAnd(subject, description string) string {
	if subject == "" || strings.HasPrefix(description, subject) {
		return description
	}
	return subject + ": " + description
}

func readableUnary(controller string) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		return readable(controller, invoke(ctx, method, req, reply, cc, opts...))
	}
}

func readableStream(controller string) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		stream, err := open(ctx, desc, cc, method, opts...)
		if err != nil {
			return nil, readable(controller, err)
		}
		return &readableClientStream{stream, controller}, nil
	}
}

type readableClientStream struct {
	grpc.ClientStream
	controller string
}

func (s *readableClientStream) RecvMsg(m any) error {
	return readable(s.controller, s.ClientStream.RecvMsg(m))
}

// exitCode says with which code an error ends the command.
func exitCode(err error) int {
	var usage *UsageError
	var refused *RefusedError
	var operation *OperationError
	switch {
	case err == nil:
		return ExitDone
	case errors.As(err, &usage):
		return ExitUsage
	case errors.As(err, &refused):
		return ExitRefused
	case errors.As(err, &operation):
		return operation.exit()
	}
	switch status.Code(err) {
	case codes.FailedPrecondition, codes.InvalidArgument, codes.AlreadyExists, codes.NotFound,
		codes.PermissionDenied, codes.Unauthenticated, codes.OutOfRange, codes.Aborted:
		return ExitRefused
	}
	return ExitError
}

// report writes an error in the form "what happened" and beneath it, indented, what to do.
func (p *program) report(ctx context.Context, command *cobra.Command, err error) int {
	if err == nil {
		return ExitDone
	}
	message := err.Error()
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || status.Code(err) == codes.Canceled) {
		message = "interrupted"
	}
	lines := strings.Split(strings.TrimSpace(message), "\n")
	var advice adviser
	if errors.As(err, &advice) {
		lines = append(lines, advice.Advice()...)
	}
	code := exitCode(err)
	if code == ExitUsage {
		lines = append(lines, fmt.Sprintf("see: %s --help", command.CommandPath()))
	}
	for i, line := range lines {
		indent := ""
		if i > 0 {
			indent = "  "
		}
		// Nothing is left to tell if stderr is gone.
		_, _ = fmt.Fprintln(p.err, indent+output.Clean(line))
	}
	return code
}
