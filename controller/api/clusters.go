package api

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/reconcile"
)

type clusters struct {
	requorumv1.UnimplementedClusterServiceServer
	*Server
}

func (s clusters) ListClusters(context.Context, *requorumv1.ListClustersRequest) (*requorumv1.ListClustersResponse, error) {
	records, err := s.Catalog.Clusters()
	if err != nil {
		return nil, toStatus(err)
	}
	resp := &requorumv1.ListClustersResponse{}
	for _, rec := range records {
		c, err := s.describe(rec, nil)
		if err != nil {
			return nil, toStatus(err)
		}
		if len(c.GetNodes()) > 0 {
			resp.Clusters = append(resp.Clusters, c)
		}
	}
	return resp, nil
}

func (s clusters) GetCluster(ctx context.Context, req *requorumv1.GetClusterRequest) (*requorumv1.GetClusterResponse, error) {
	rec, err := s.Catalog.Cluster(req.GetCluster())
	if err != nil {
		return nil, toStatus(err)
	}
	var facts map[string]*agentv1.NodeFacts
	if req.GetRefresh() {
		facts = s.ask(ctx, rec.GetName())
	}
	c, err := s.describe(rec, facts)
	return &requorumv1.GetClusterResponse{Cluster: c}, toStatus(err)
}

// ask asks every connected node for its member's present state. A node that does not answer is shown
// as it was last seen.
func (s clusters) ask(ctx context.Context, cluster string) map[string]*agentv1.NodeFacts {
	facts := make(map[string]*agentv1.NodeFacts)
	nodes, err := s.Catalog.NodeNames(cluster)
	if err != nil {
		return facts // describe reads the same records and reports the error
	}
	type answer struct {
		node  string
		facts *agentv1.NodeFacts
		err   error
	}
	answers := make(chan answer, len(nodes))
	asked := 0
	for _, node := range nodes {
		if !s.Dispatcher.Info(dispatch.Key{Cluster: cluster, Node: node}).Connected {
			continue
		}
		asked++
		go func() {
			result, err := s.Dispatcher.AskNode(ctx, cluster, node, &agentv1.Task{Spec: &agentv1.Task_InspectNode{InspectNode: &agentv1.InspectNode{}}})
			answers <- answer{node, result.GetNode(), err}
		}()
	}
	for range asked {
		a := <-answers
		if a.err != nil {
			s.Log.Warn("node did not tell its state", "cluster", cluster, "node", a.node, "error", a.err)
			continue
		}
		facts[a.node] = a.facts
	}
	return facts
}

// describe puts together what records, sessions and, where given, fresh facts tell of a cluster.
func (s clusters) describe(rec *journalv1.ClusterRecord, facts map[string]*agentv1.NodeFacts) (*requorumv1.Cluster, error) {
	c := &requorumv1.Cluster{Name: rec.GetName(), Generation: rec.GetGeneration(), RunningOperation: s.Engine.Running(rec.GetName())}
	nodes, err := s.Catalog.Nodes(rec.GetName())
	if err != nil {
		return nil, err
	}
	for _, n := range nodes {
		c.Nodes = append(c.Nodes, s.node(n, facts[n.GetName()]))
	}
	if latest, err := s.Catalog.Snapshot(rec.GetName(), catalog.Latest); err == nil {
		c.LatestSnapshot, c.LatestSnapshotTime = latest.GetName(), latest.GetManifest().GetCreated()
	}
	c.Problems = problems(c)
	snapshots, err := s.Catalog.Snapshots(rec.GetName())
	if lacking := reconcile.Lacking(snapshots); lacking != "" {
		c.Problems = append(c.Problems, lacking)
	}
	c.Problems = append(c.Problems, s.Copies.Unreachable(rec.GetName())...)
	if err != nil {
		return nil, err
	}
	c.Problems, err = s.failedRuns(c)
	return c, err
}

// failedRuns adds the schedules whose latest run or drill has failed to the cluster's problems.
func (s clusters) failedRuns(c *requorumv1.Cluster) ([]string, error) {
	all, err := s.Schedules.List(c.GetName())
	found := c.GetProblems()
	for _, sched := range all {
		if drill := sched.GetStatus().GetDrill(); drill.GetResult() == requorumv1.RunResult_RUN_RESULT_FAILED {
			found = append(found, fmt.Sprintf("schedule %s: its latest drill failed: %s", sched.GetName(), drill.GetReason()))
		}
		for _, run := range sched.GetStatus().GetRecords() {
			if run.GetResult() == requorumv1.RunResult_RUN_RESULT_FAILED {
				found = append(found, fmt.Sprintf("schedule %s: its latest run failed: %s", sched.GetName(), run.GetReason()))
			}
		}
	}
	return found, err
}

func (s clusters) node(rec *journalv1.NodeRecord, facts *agentv1.NodeFacts) *requorumv1.Node {
	info := s.Dispatcher.Info(dispatch.Key{Cluster: rec.GetCluster(), Node: rec.GetName()})
	n := &requorumv1.Node{
		Name: rec.GetName(), Connected: info.Connected, LastSeen: rec.GetLastSeen(), AgentVersion: info.AgentVersion,
		TransferAddress: rec.GetTransferAddress(), Runtime: info.Runtime, Generation: info.Generation, Fenced: info.Fenced,
		Member: info.Member, VaultFreeBytes: info.VaultFreeBytes, DataFreeBytes: info.DataFreeBytes,
	}
	if !info.Seen.IsZero() {
		n.LastSeen = timestamppb.New(info.Seen)
	}
	if !info.Connected { // what was last seen is not what is
		n.Member, n.VaultFreeBytes, n.DataFreeBytes = nil, 0, 0
		if info.Obeys > 0 {
			message, advice := info.Away("")
			n.Problem = message + "; " + advice
		}
	}
	if facts != nil {
		n.Generation, n.Fenced = facts.GetGeneration(), facts.GetFenced()
		n.Member, n.VaultFreeBytes, n.DataFreeBytes, n.Problem = facts.GetMember(), facts.GetVaultFreeBytes(), facts.GetDataFreeBytes(), facts.GetProblem()
		n.LastSeen = timestamppb.New(time.Now())
	}
	return n
}

func problems(c *requorumv1.Cluster) []string {
	var found []string
	add := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	for _, n := range c.GetNodes() {
		switch {
		case !n.GetConnected() && n.GetProblem() != "":
			add("%s: %s", n.GetName(), n.GetProblem())
		case !n.GetConnected():
			add("%s: its agent is not connected", n.GetName())
		case n.GetFenced():
			add("%s: it missed a restore and keeps etcd stopped; include it in the next restore", n.GetName())
		case n.GetProblem() != "":
			add("%s: %s", n.GetName(), n.GetProblem())
		case !n.GetMember().GetServing():
			add("%s: its member does not serve: %s", n.GetName(), n.GetMember().GetError())
		}
		for _, a := range n.GetMember().GetAlarms() {
			add("%s: alarm %s of member %s", n.GetName(), a.GetType(), a.GetMemberId())
		}
	}
	if c.GetLatestSnapshot() == "" {
		add("there is no snapshot")
	}
	return found
}

func (s clusters) RemoveNode(ctx context.Context, req *requorumv1.RemoveNodeRequest) (*requorumv1.RemoveNodeResponse, error) {
	if err := s.Access.RemoveNode(ctx, req.GetCluster(), req.GetNode()); err != nil {
		return nil, toStatus(err)
	}
	s.Dispatcher.Remove(dispatch.Key{Cluster: req.GetCluster(), Node: req.GetNode()})
	return &requorumv1.RemoveNodeResponse{}, nil
}
