package dispatch

import (
	"fmt"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"

	"github.com/requorum/requorum/controller/failure"
)

// giveMarker tells a node by which marker a directory is known, so that it does not take one that is not mounted for it.
func (d *Dispatcher) giveMarker(r *agentv1.Remote) (err error) {
	if dir := r.GetDir(); dir != nil {
		dir.Marker, err = d.records.RemoteMarker(r.GetName())
	}
	return err
}

// takeMarker keeps the marker that a node has found or made in a directory. It fails if other nodes know that directory by
// another one.
func (d *Dispatcher) takeMarker(node string, r *agentv1.Remote, marker string) error {
	if r.GetDir() == nil || marker == "" {
		return nil
	}
	known, err := d.records.MarkRemote(r.GetName(), marker)
	if err != nil || known == marker {
		return err
	}
	return failure.On(node, fmt.Sprintf("directory %s has the marker %q there, not %q as remote %s: it is not mounted, or is another directory", r.GetDir().GetPath(), marker, known, r.GetName()),
		"mount it on that node")
}
