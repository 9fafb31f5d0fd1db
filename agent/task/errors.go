package task

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/requorum/requorum/agent/datadir"
	"github.com/requorum/requorum/agent/files"
	"github.com/requorum/requorum/agent/member"
	"github.com/requorum/requorum/agent/remote"
	"github.com/requorum/requorum/agent/vault"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	"github.com/requorum/requorum/internal/etcdfile"
	"github.com/requorum/requorum/internal/objectstore"
	"github.com/requorum/requorum/internal/objectstore/dir"
	"github.com/requorum/requorum/internal/seal"
)

// Refused is a failure that trying again does not mend.
type Refused struct{ Message, Advice string }

func (e *Refused) Error() string { return e.Message }

// errNotKnown is for a task without an ID, or without a spec that this agent knows.
var errNotKnown = &Refused{Message: "this agent does not know such a task", Advice: "upgrade the agent: it is older than the controller"}

// fencedError answers a controller that is not obeyed any more.
type fencedError struct{ obeyed, got uint64 }

func (e *fencedError) Error() string {
	return fmt.Sprintf("the node obeys a controller of epoch %d, not this one of epoch %d", e.obeyed, e.got)
}

// describe turns a handler's error into what the controller and people see.
func describe(err error) *agentv1.TaskError {
	e := &agentv1.TaskError{Message: err.Error()}
	switch {
	case is[*fencedError](err):
		e.Code = agentv1.TaskErrorCode_TASK_ERROR_CODE_FENCED
	case isRefusal(err):
		e.Code, e.Advice = agentv1.TaskErrorCode_TASK_ERROR_CODE_REFUSED, advice(err)
	case is[*vault.NoSpaceError](err), is[*datadir.NoSpaceError](err): // they say what to do
		e.Code = agentv1.TaskErrorCode_TASK_ERROR_CODE_NO_SPACE
	case errors.Is(err, syscall.ENOSPC):
		e.Code, e.Advice = agentv1.TaskErrorCode_TASK_ERROR_CODE_NO_SPACE, "free space there, or remove old snapshots (requorum snapshot rm)"
	case errors.Is(err, seal.ErrNoIdentity):
		e.Code, e.Advice = agentv1.TaskErrorCode_TASK_ERROR_CODE_SEALED, "give the key file of one of its recipients: --identity FILE"
	case is[*objectstore.Error](err):
		e.Code, e.Advice = agentv1.TaskErrorCode_TASK_ERROR_CODE_REMOTE, remoteAdvice(err)
	case isDamage(err):
		e.Code = agentv1.TaskErrorCode_TASK_ERROR_CODE_CORRUPT
	case errors.Is(err, rpctypes.ErrCompacted):
		e.Code = agentv1.TaskErrorCode_TASK_ERROR_CODE_COMPACTED
	case errors.Is(err, context.Canceled):
		e.Code = agentv1.TaskErrorCode_TASK_ERROR_CODE_CANCELLED
	}
	return e
}

// isRefusal tells whether trying again is of no use until a person has changed something.
func isRefusal(err error) bool {
	return is[*Refused](err) || is[*datadir.LayoutError](err) || is[*member.MismatchError](err) || is[*files.RefusedError](err) ||
		errors.Is(err, vault.ErrExists) || errors.Is(err, datadir.ErrSwapped)
}

// isDamage tells whether a file is not what it should be, or files of the node are gone.
func isDamage(err error) bool {
	return is[*etcdfile.CorruptError](err) || is[*datadir.CorruptError](err) || is[*vault.TrailerError](err) || is[*vault.MismatchError](err) || is[*remote.CorruptError](err) || is[*files.CorruptError](err) || is[*vault.UnsealError](err) ||
		errors.Is(err, files.ErrNotFound)
}

// remoteAdvice says what to do about a remote that does not do what is asked.
func remoteAdvice(err error) string {
	if strange, is := errors.AsType[*dir.MarkerError](err); is {
		if strange.Empty {
			return fmt.Sprintf("write it again: echo %s > %s", strange.Want, strange.Path)
		}
		return fmt.Sprintf("mount it on that node; if the remote is to begin anew there: echo %s > %s", strange.Want, strange.Path)
	}
	switch {
	case errors.Is(err, objectstore.ErrDenied):
		return "look at the remote's credentials in the controller's configuration, and at what they allow"
	case errors.Is(err, objectstore.ErrNoStore):
		return "look at the remote's bucket, region or path in the controller's configuration; a directory has to be mounted on the node"
	case errors.Is(err, objectstore.ErrInvalid):
		return "look at the remote's settings in the controller's configuration"
	case errors.Is(err, objectstore.ErrNotFound):
		return "list what the remote holds (requorum remote snapshots)"
	}
	return "see whether the node reaches the remote, then try again"
}

func is[T error](err error) bool {
	_, found := errors.AsType[T](err)
	return found
}

func advice(err error) string {
	if refused, ok := errors.AsType[*Refused](err); ok {
		return refused.Advice
	}
	if refused, ok := errors.AsType[*files.RefusedError](err); ok {
		return refused.Advice
	}
	return ""
}
