package task

import (
	"context"
	"errors"
	"syscall"

	"github.com/requorum/requorum/agent/datadir"
	"github.com/requorum/requorum/agent/vault"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	"github.com/requorum/requorum/internal/etcdfile"
)

// Refused is a failure that trying again does not mend.
type Refused struct{ Message, Advice string }

func (e *Refused) Error() string { return e.Message }

// describe turns a handler's error into what the controller and people see.
func describe(err error) *agentv1.TaskError {
	e := &agentv1.TaskError{Message: err.Error()}
	var (
		refused  *Refused
		noSpace  *vault.NoSpaceError
		noSpace2 *datadir.NoSpaceError
		corrupt  *etcdfile.CorruptError
		corrupt2 *datadir.CorruptError
		trailer  *vault.TrailerError
	)
	switch {
	case errors.As(err, &refused):
		e.Code, e.Advice = agentv1.TaskErrorCode_TASK_ERROR_CODE_REFUSED, refused.Advice
	case errors.As(err, &noSpace), errors.As(err, &noSpace2), errors.Is(err, syscall.ENOSPC):
		e.Code, e.Advice = agentv1.TaskErrorCode_TASK_ERROR_CODE_NO_SPACE, "free space there, or remove old snapshots (requorum snapshot rm)"
	case errors.As(err, &corrupt), errors.As(err, &corrupt2), errors.As(err, &trailer):
		e.Code = agentv1.TaskErrorCode_TASK_ERROR_CODE_CORRUPT
	case errors.Is(err, context.Canceled):
		e.Code = agentv1.TaskErrorCode_TASK_ERROR_CODE_CANCELLED
	}
	return e
}
