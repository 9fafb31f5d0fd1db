package transfer

import (
	"context"
	"fmt"
	"sync"
)

// Grants says which nodes may read which snapshots. The zero value allows nothing.
type Grants struct {
	mu      sync.Mutex
	allowed map[grant]int // how often granted and not yet released
}

type grant struct{ name, node string }

// Allow lets nodes read the snapshot called name until release is called. Grants add up: a node may read
// until each that names it is released. A stream that is open at that time is not broken off.
func (g *Grants) Allow(name string, nodes ...string) (release func()) {
	g.add(name, nodes, 1)
	return sync.OnceFunc(func() { g.add(name, nodes, -1) })
}

func (g *Grants) add(name string, nodes []string, n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.allowed == nil {
		g.allowed = map[grant]int{}
	}
	for _, node := range nodes {
		key := grant{name: name, node: node}
		if g.allowed[key] += n; g.allowed[key] == 0 {
			delete(g.allowed, key)
		}
	}
}

// MayRead fails unless node was allowed to read the snapshot called name.
func (g *Grants) MayRead(_ context.Context, node, name string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.allowed[grant{name: name, node: node}] == 0 {
		return fmt.Errorf("no present task lets %s read snapshot %s", node, name)
	}
	return nil
}
