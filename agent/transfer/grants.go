package transfer

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// Grants says which nodes may read which snapshots, and by which keys those nodes are known. The zero value allows
// nothing.
type Grants struct {
	mu      sync.Mutex
	allowed map[grant]int       // how often granted and not yet released
	keys    map[string][]string // by node, as the controller last told
}

type grant struct{ name, node string }

// Peer is who calls, as its certificate says.
type Peer struct {
	Cluster string
	Node    string
	Key     string // SHA-256 over its public key, lower-case hexadecimal
}

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

// Know notes by which keys a node is known from now on, in place of those before. One without keys is not known.
func (g *Grants) Know(node string, keys ...string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.keys == nil {
		g.keys = map[string][]string{}
	}
	g.keys[node] = keys
}

// KnowOnly notes by which keys nodes are known from now on. Nodes that are not among them are not known.
func (g *Grants) KnowOnly(keys map[string][]string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.keys = keys
}

// Readers returns the nodes that may read anything, in the order of their names.
func (g *Grants) Readers() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	nodes := map[string]bool{}
	for key := range g.allowed {
		nodes[key.node] = true
	}
	return slices.Sorted(maps.Keys(nodes))
}

// MayRead fails unless the peer's node was allowed to read the snapshot called name, and shows a key by which it is
// known.
func (g *Grants) MayRead(ctx context.Context, peer Peer, name string) error {
	if err := g.StillKnown(ctx, peer); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.allowed[grant{name: name, node: peer.Node}] == 0 {
		return fmt.Errorf("no present task lets %s read snapshot %s", peer.Node, name)
	}
	return nil
}

// StillKnown fails unless the peer shows a key by which its node is known now. A node that was removed is known by
// none, and one that renewed its certificate by the new one only.
func (g *Grants) StillKnown(_ context.Context, peer Peer) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if peer.Key == "" || !slices.Contains(g.keys[peer.Node], peer.Key) {
		return fmt.Errorf("the certificate of %s is not known here: it was revoked, or no task names the node", peer.Node)
	}
	return nil
}
