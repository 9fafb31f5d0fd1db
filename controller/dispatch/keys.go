package dispatch

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
)

// KeysChanged tells the agents that were told a node's keys what they are now. An agent serves a neighbour only
// as long as it knows the key that the neighbour shows: one that was removed is known by none.
func (d *Dispatcher) KeysChanged(key Key) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for other, n := range d.nodes {
		if other.Cluster == key.Cluster && n.session != nil && n.session.told[key.Node] {
			n.session.send(&agentv1.OpenSessionResponse{Neighbours: neighbours([]string{key.Node})})
		}
	}
}

// neighbours names nodes whose keys are filled in when the message is sent.
func neighbours(nodes []string) []*agentv1.Neighbour {
	all := make([]*agentv1.Neighbour, len(nodes))
	for i, node := range nodes {
		all[i] = &agentv1.Neighbour{Node: node}
	}
	return all
}

// withKeys adds to a message the keys of everybody whom its tasks let read from the node, as they are now. Whoever
// changes them later finds that the agent was told.
func (d *Dispatcher) withKeys(cluster string, s *session, m *agentv1.OpenSessionResponse) (*agentv1.OpenSessionResponse, error) {
	nodes := readers(m)
	if len(nodes) == 0 {
		return m, nil
	}
	d.mu.Lock()
	for _, node := range nodes {
		s.told[node] = true
	}
	d.mu.Unlock()
	m = proto.CloneOf(m)
	m.Neighbours = neighbours(nodes)
	for _, n := range m.GetNeighbours() {
		keys, err := d.records.Keys(cluster, n.GetNode())
		if err != nil {
			return nil, fmt.Errorf("keys of node %s: %w", n.GetNode(), err)
		}
		n.Keys = keys
	}
	return m, nil
}

// readers returns whose keys a message has to tell.
func readers(m *agentv1.OpenSessionResponse) []string {
	var all []string
	for _, n := range m.GetNeighbours() {
		all = append(all, n.GetNode())
	}
	for _, t := range m.GetTasks() {
		all = append(all, t.GetServeCopy().GetReaders()...)
		all = append(all, t.GetFetchCopy().GetReaders()...)
		all = append(all, t.GetSaveCopy().GetReaders()...)
		all = append(all, t.GetFollowCopy().GetReaders()...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}
