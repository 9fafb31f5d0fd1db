package main

import (
	"context"
	"fmt"
	"time"

	"github.com/requorum/requorum/e2e/bench/distribution"
)

const (
	megabits       = 200 // a second that a slow link carries in each direction
	slowReceivers  = 4
	sentAtMost     = 1.02
	starPart       = 1.0 / 3
	oneGiB         = Size(gib)
	againstStar    = "a star from the source, bare TCP, on the same links"
	compressing    = "the same to 4 nodes over slow links, a file of text"
	farMegabits    = 100                   // the same over a longer way
	farDelay       = 25 * time.Millisecond // of each link in each direction: 50 ms from node to node
	farAtMost      = Size(256 << 20)       // of a file: a star over such links takes its time
	commandTooSlow = "the whole command, which also reads every copy back from the disk, before and after"
)

// sent measures what a source sends to distribute a file to more and more nodes.
func sent(ctx context.Context, r *Report) error {
	if why := distribution.Unavailable(); why != "" {
		r.Say("  skipped: %s", why)
		return nil
	}
	for _, receivers := range []int{2, 4, 6} {
		what := fmt.Sprintf("bytes that the source sends to distribute to %d nodes", receivers)
		if err := r.addSent(ctx, what, sentAtMost, distribution.Options{Receivers: receivers}); err != nil {
			return err
		}
	}
	return r.addSent(ctx, compressing, 0, distribution.Options{Receivers: slowReceivers, Links: distribution.Links{Megabits: megabits}, Compressible: true})
}

func (r *Report) addSent(ctx context.Context, what string, target float64, o distribution.Options) error {
	result, err := r.distribute(ctx, o)
	if err != nil {
		return err
	}
	r.Add(Row{
		Section: "sent", What: what, Against: "size of the file", Size: distributed(r.Settings.Sizes), Unit: "bytes",
		Measured: float64(result.SentBytes), Base: float64(result.FileBytes), Target: target,
	})
	return nil
}

// links measures a distribution over slow links beside a star.
func links(ctx context.Context, r *Report) error {
	if why := distribution.Unavailable(); why != "" {
		r.Say("  skipped: %s", why)
		return nil
	}
	result, err := r.distribute(ctx, distribution.Options{Receivers: slowReceivers, Links: distribution.Links{Megabits: megabits}, Star: true})
	if err != nil {
		return err
	}
	row := Row{
		Section: "links", What: fmt.Sprintf("distribution to %d nodes over links of %d Mbit/s", slowReceivers, megabits), Against: againstStar,
		Size: distributed(r.Settings.Sizes), Unit: "s", Measured: result.Step.Seconds(), Base: result.Star.Seconds(), Target: starPart,
	}
	r.Add(row)
	row.What, row.Measured, row.Target, row.Note = row.What+", whole command", result.Command.Seconds(), 0, commandTooSlow
	r.Add(row)
	return nil
}

// far measures the same over links that are slower and longer, with what the source sends each way.
func far(ctx context.Context, r *Report) error {
	if why := distribution.Unavailable(); why != "" {
		r.Say("  skipped: %s", why)
		return nil
	}
	size := min(distributed(r.Settings.Sizes), farAtMost)
	result, err := r.distribute(ctx, distribution.Options{
		Size: int64(size), Receivers: slowReceivers, Links: distribution.Links{Megabits: farMegabits, Delay: farDelay}, Star: true,
	})
	if err != nil {
		return err
	}
	where := fmt.Sprintf("to %d nodes over links of %d Mbit/s, %s from node to node", slowReceivers, farMegabits, 2*farDelay)
	r.Add(Row{
		Section: "far", What: "distribution " + where, Against: againstStar,
		Size: size, Unit: "s", Measured: result.Step.Seconds(), Base: result.Star.Seconds(), Target: starPart,
	})
	r.Add(Row{
		Section: "far", What: "bytes that the source sends " + where, Against: againstStar,
		Size: size, Unit: "bytes", Measured: float64(result.SentBytes), Base: float64(result.StarBytes),
	})
	return nil
}

func (r *Report) distribute(ctx context.Context, o distribution.Options) (*distribution.Result, error) {
	o.Binary, o.Dir = r.Settings.Binary, r.Settings.Dir
	if o.Size == 0 {
		o.Size = int64(distributed(r.Settings.Sizes))
	}
	return distribution.Measure(ctx, o)
}

// distributed returns the size of the file: the largest that was asked for up to 1 GiB, or else the smallest. What
// is measured does not change with larger ones.
func distributed(sizes []Size) Size {
	chosen := sizes[0]
	for _, s := range sizes {
		if s <= oneGiB {
			chosen = s
		}
	}
	return chosen
}
