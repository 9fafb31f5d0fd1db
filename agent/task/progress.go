package task

import (
	"time"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	"github.com/requorum/requorum/internal/fault"
)

const reportEvery = 200 * time.Millisecond

// Progress tells the controller how a task gets on; nil tells nobody.
type Progress struct {
	runner    *Runner
	execution *execution
	last      time.Time // guarded by Runner.mu

	middle func() // in builds with fault points: to be called at every progress
}

// Bytes tells how many bytes are done, and how many there are in all, 0 if that is not known.
func (p *Progress) Bytes(done, total int64) {
	p.set(func(r *agentv1.TaskReport) { r.DoneBytes, r.TotalBytes = done, total })
}

// Tick tells that the task gets on, where its work is not counted in bytes.
func (p *Progress) Tick() { p.set(func(*agentv1.TaskReport) {}) }

// Detail tells what is being done, in a few words.
func (p *Progress) Detail(text string) {
	p.set(func(r *agentv1.TaskReport) { r.Detail = text })
}

// Marker tells the marker of the directory remote that the task uses, even if it fails.
func (p *Progress) Marker(marker string) {
	p.set(func(r *agentv1.TaskReport) { r.RemoteMarker = marker })
}

func (p *Progress) set(change func(*agentv1.TaskReport)) {
	if p == nil {
		return
	}
	if fault.Enabled && p.middle != nil {
		p.middle()
	}
	p.runner.mu.Lock()
	defer p.runner.mu.Unlock()
	change(p.execution.report)
	p.execution.report.Ticks++
	if p.runner.known[p.execution.task.GetId()] != p.execution {
		return // cancelled, and begun again
	}
	if now := time.Now(); now.Sub(p.last) >= reportEvery {
		p.last = now
		p.runner.mark(p.execution)
	}
}
