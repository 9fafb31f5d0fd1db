//go:build faultinject

package simulated_test

import (
	"context"
	"errors"
	"time"

	"github.com/requorum/requorum/agent/datadir"
	"github.com/requorum/requorum/agent/drill"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
)

// driller drills on a node's disk, where what it makes looks like staged data.
type driller struct{ *mounted }

const scratch = "scratch"

func (d driller) Space(size int64) (needed, free uint64, err error) {
	err = d.access(func(k *disk) error { free = k.free(); return nil })
	return uint64(size), free, err
}

// Clean removes what an agent that died has left.
func (d driller) Clean() error {
	return d.access(func(k *disk) error { delete(k.staging, scratch); return nil })
}

func (d driller) Run(ctx context.Context, path string, spec *agentv1.DrillCopy, p drill.Progress) (_ *agentv1.Drilled, err error) {
	err = d.change(func(k *disk) error { k.staging[scratch] = &staged{}; return nil })
	if err != nil {
		return nil, noSpace(err)
	}
	defer func() { err = errors.Join(err, d.Clean()) }()
	from, err := d.read(ctx, path, func(int64) { p.Tick() })
	if err != nil {
		return nil, err
	}
	for part := range int64(3) { // restore, start, read
		if err := d.p.work(ctx, 200*time.Millisecond); err != nil {
			return nil, err
		}
		p.Bytes(part, 3)
	}
	if from.hash(from.revision, from.compact) != spec.GetManifest().GetHashKv() {
		return nil, &datadir.CorruptError{Path: path, Reason: "holds other data than was saved"}
	}
	return &agentv1.Drilled{Keys: spec.GetManifest().GetKeys()}, nil
}
