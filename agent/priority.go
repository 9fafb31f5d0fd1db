package agent

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"sync"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/agent/task"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
)

const (
	// autogroup holds the niceness of the caller's session, by which the kernel shares the processors among sessions
	// (sched(7), "The autogroup feature"). That of a process is only compared within its session.
	autogroup = "/proc/self/autogroup"
	// low is the niceness of an agent that gives way: a third of the weight that etcd has. With a tenth (10) a save of
	// 0.3 GiB took minutes where dozens of sessions wanted two cores.
	low, usual = 5, 0
)

// priority makes etcd go first where it and the agent want the processors: copying a snapshot can wait, the
// member's clients cannot. The session's niceness is changed, so it does nothing if the agent was started in
// somebody else's, such as a shell's; etcd, which the agent starts in a session of its own, keeps its own. A kernel
// without autogroups, or one that shares processors by cgroup, takes no notice.
type priority struct {
	log hclog.Logger

	mu  sync.Mutex
	now int
}

// of makes handle run with the priority that suits the task. It stays until a task of the other kind comes.
func (p *priority) of(handle task.Handler) task.Handler {
	return func(ctx context.Context, t *agentv1.Task, progress *task.Progress) (*agentv1.TaskResult, error) {
		switch t.GetSpec().(type) {
		case *agentv1.Task_SaveCopy, *agentv1.Task_ImportCopy, *agentv1.Task_InspectCopy, *agentv1.Task_FetchCopy, *agentv1.Task_FollowCopy,
			*agentv1.Task_HashCopy, *agentv1.Task_UploadCopy, *agentv1.Task_SaveOld, *agentv1.Task_DrillCopy:
			p.set(low)
		case *agentv1.Task_Stop, *agentv1.Task_Swap, *agentv1.Task_SwapBack, *agentv1.Task_Start: // nobody is served meanwhile
			p.set(usual)
		}
		return handle(ctx, t, progress)
	}
}

func (p *priority) set(niceness int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	session, err := unix.Getsid(0)
	if err != nil || session != os.Getpid() || niceness == p.now {
		return
	}
	switch err := os.WriteFile(autogroup, []byte(strconv.Itoa(niceness)), 0); {
	case err == nil:
		p.now = niceness
	case !errors.Is(err, fs.ErrNotExist):
		// EAGAIN, if another process has just changed its own: the next task tries again.
		p.log.Warn("the agent's priority stays as it is", "niceness", niceness, "error", err)
	}
}
