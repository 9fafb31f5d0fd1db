package main

import (
	"context"
	"errors"
	"time"
)

// strike makes the fault happen while the operation is held, lets it go on, and ends the fault.
func (a *attempt) strike(ctx context.Context) {
	var err error
	switch c := a.cell; c.kind {
	case killController:
		err = errors.Join(a.Controller.Kill(), a.letGo(), a.Controller.Start())
	case killAgent:
		err = errors.Join(a.Process(c.victim).Kill(), a.letGo())
		a.lasts(ctx)
		err = errors.Join(err, a.Process(c.victim).Start())
	case killEtcd:
		a.KillEtcd(c.victim)
		a.release()
	case killAll:
		err = a.killEverything()
	case cutNetwork:
		err = errors.Join(a.network.Cut(c.victim), a.letGo())
		a.lasts(ctx)
		err = errors.Join(err, a.network.Heal(c.victim))
	case fillDisk:
		err = errors.Join(a.fill(), a.letGo())
		a.lasts(ctx)
		err = errors.Join(err, a.empty())
	case hangTask:
		a.lasts(ctx)
		a.release()
	}
	if err != nil {
		a.note.Fatal(err)
	}
}

func (a *attempt) letGo() error { return a.Faults.Forget(a.cell.point, a.cell.at) }

// killEverything kills the controller, the agents and etcd, and starts what a machine starts.
func (a *attempt) killEverything() error {
	err := a.Controller.Kill()
	for _, n := range a.Nodes {
		err = errors.Join(err, n.Agent.Kill())
	}
	for _, n := range a.Nodes {
		a.KillEtcd(n.Name)
	}
	a.release()
	err = errors.Join(err, a.Controller.Start())
	for _, n := range a.Nodes {
		err = errors.Join(err, n.Agent.Start())
	}
	return err
}

// lasts waits for as long as the fault lasts, or until the operation has ended in spite of it.
func (a *attempt) lasts(ctx context.Context) {
	wait := brief
	switch {
	case a.cell.kind == hangTask:
		wait = stalled + brief
	case a.cell.long:
		wait = long
	}
	over := time.After(wait)
	for a.operation(ctx, a.id).GetEnded() == nil {
		select {
		case <-over:
			return
		case <-time.After(10 * look):
		}
	}
}

// mend makes sure that nothing is armed, cut, full or ended any more, whatever came before.
func (a *attempt) mend() {
	a.Disarm()
	err := errors.Join(a.empty(), a.Controller.Start())
	for _, n := range a.Nodes {
		err = errors.Join(err, n.Agent.Start())
	}
	if err != nil {
		a.note.Fatal(err)
	}
}
