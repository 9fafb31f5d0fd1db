package main

import (
	"context"
	"fmt"
	"time"

	"github.com/requorum/requorum/e2e/bench/agents"
)

const (
	manyAgents       = 1000
	controllerMemory = 256 << 20
	corePercent      = 10
	backWithin       = 30 // seconds
	watchAtRest      = 40 * time.Second
)

// manySessions measures what a thousand agents cost one controller.
func manySessions(ctx context.Context, r *Report) error {
	result, err := agents.Measure(ctx, agents.Options{Binary: r.Settings.Binary, Dir: r.Settings.Dir, Agents: manyAgents, Rest: watchAtRest})
	if err != nil {
		return err
	}
	note := ""
	if result.Lost > 0 {
		note = fmt.Sprintf("%d sessions were lost at rest", result.Lost)
	}
	of := fmt.Sprintf("controller of %d agents: ", manyAgents)
	for _, row := range []Row{
		{What: of + "memory at its highest", Unit: "bytes", Measured: float64(result.Peak), Target: controllerMemory},
		{What: of + "part of a core at rest", Unit: "%", Measured: 100 * result.Core, Target: corePercent, Note: note},
		{What: of + "until all are back after it was killed", Unit: "s", Measured: result.Back.Seconds(), Target: backWithin},
		{What: of + "until all have joined", Unit: "s", Measured: result.Enrolled.Seconds()},
	} {
		row.Section = "agents"
		r.Add(row)
	}
	return nil
}
