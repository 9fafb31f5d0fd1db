package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/cmd/requorum/cli/live"
	"github.com/requorum/requorum/cmd/requorum/cli/output"
	"github.com/requorum/requorum/internal/config"
)

// Labels of a snapshot that a hook has taken.
const (
	labelPreUpgrade = "pre-upgrade"
	labelEtcd       = "etcd-version"
	labelKubernetes = "kubernetes-version"
)

const defaultMaxAge = 10 * time.Minute

const preUpgradeLong = `Make sure, before something is upgraded, that there is a snapshot to go back to.

It ends with 0 only if a snapshot is ready that is younger than --max-age and of
which every node of the cluster holds a good copy, and takes one if there is none.
With --verify that snapshot was also proved restorable, by a drill on one node.
Its name is all that stands on stdout, so that a script can keep it:

  NAME=$(requorum hook pre-upgrade --cluster prod) || exit 1
  ... upgrade ... || requorum restore --cluster prod --snapshot "$NAME" --yes

Snapshots that were asked for by a person or a program count, also those of other
hooks: when several nodes are upgraded at once, one snapshot is taken. Those of
schedules do not count, since their retention may remove them before they are
needed. While another operation changes the cluster the hook waits for it.

The snapshot that it takes is of the kind pre-upgrade, and is labelled with the
version of etcd, and with that of Kubernetes if it is given.`

type preUpgrade struct {
	cluster       string
	maxAge        config.Duration
	verify        bool
	requireRemote bool
	remote        string // that has to hold a copy; empty for none
	kubernetes    string
	identity      string // text of a key file

	began  time.Time
	taken  string            // the snapshot that this hook has taken
	agreed map[string]bool   // snapshots of which all nodes have read their copies back since it began
	listed map[string]bool   // snapshots that the remote was seen to hold since it began
	unfit  map[string]string // why snapshots that the catalog has as good are not
}

func (p *program) hookCommand() *cobra.Command {
	return parent(&cobra.Command{
		Use:     "hook",
		Short:   "What other programs run before they change a cluster",
		Long:    "What other programs run before they change a cluster. deploy/hooks has ready-made\npieces for some of them.",
		Example: "  requorum hook pre-upgrade --cluster prod",
	}, p.hookPreUpgrade())
}

func (p *program) hookPreUpgrade() *cobra.Command {
	h := &preUpgrade{maxAge: config.Duration(defaultMaxAge)}
	var identity string
	command := &cobra.Command{
		Use:     "pre-upgrade",
		Short:   "Make sure that there is a fresh snapshot on every node, and print its name",
		Long:    preUpgradeLong,
		Example: "  requorum hook pre-upgrade --cluster prod\n  requorum hook pre-upgrade --cluster prod --max-age 1h --verify --kubernetes-version v1.31.2",
		Args:    takes(),
		RunE: func(c *cobra.Command, _ []string) error {
			h.began = p.now()
			var err error
			if h.identity, err = readIdentity(identity); err != nil {
				return err
			}
			return p.with(c.Context(), func(ctx context.Context, c *client) error {
				found, err := p.preUpgrade(ctx, c, h)
				if err != nil {
					return err
				}
				if p.settings.format != output.Table {
					return output.Message(p.out, p.settings.format, &requorumv1.GetSnapshotResponse{Snapshot: found})
				}
				_, err = fmt.Fprintln(p.out, found.GetName())
				return err
			})
		},
	}
	p.clusterFlag(command, &h.cluster)
	flags := command.Flags()
	flags.Var(&h.maxAge, "max-age", "how old a snapshot may be that is there already")
	flags.BoolVar(&h.verify, "verify", false, "also prove that it can be restored, on one node beside the live etcd")
	flags.BoolVar(&h.requireRemote, "require-remote", false, "also require a copy in an object store, and store one with what is taken")
	flags.StringVar(&h.remote, "remote", "", "require it in the remote `NAME`, which implies --require-remote (default: the only one that the controller has)")
	complete(command, "remote", p.completeRemotes)
	identityFlag(flags, &identity)
	flags.StringVar(&h.kubernetes, "kubernetes-version", "", "`VERSION` of Kubernetes that runs now, kept with the snapshot")
	flags.Lookup("kubernetes-version").Annotations = map[string][]string{mayBeEmpty: nil}
	return command
}

// preUpgrade returns the snapshot to go back to. Each round looks anew: others may be at work on the same cluster.
func (p *program) preUpgrade(ctx context.Context, c *client, h *preUpgrade) (*requorumv1.Snapshot, error) {
	var err error
	if h.cluster, err = c.clusterOr(ctx, h.cluster); err != nil {
		return nil, err
	}
	if h.requireRemote && h.remote == "" {
		if h.remote, err = onlyRemote(ctx, c); err != nil {
			return nil, err
		}
	}
	h.agreed, h.listed, h.unfit = make(map[string]bool), make(map[string]bool), make(map[string]string)
	for {
		found, err := p.round(ctx, c, h)
		if found != nil || err != nil {
			return found, err
		}
	}
}

// round returns the snapshot to go back to, or comes a step nearer to one.
func (p *program) round(ctx context.Context, c *client, h *preUpgrade) (*requorumv1.Snapshot, error) {
	cluster, err := insist(ctx, c, c.GetCluster, &requorumv1.GetClusterRequest{Cluster: h.cluster})
	if err != nil {
		return nil, err
	}
	all, err := insist(ctx, c, c.ListSnapshots, &requorumv1.ListSnapshotsRequest{Cluster: h.cluster})
	if err != nil {
		return nil, err
	}
	nodes := cluster.GetCluster().GetNodes()
	found := h.choose(all.GetSnapshots(), nodes)
	switch agreed := found != nil && h.agreed[found.GetName()]; {
	case agreed && h.remote != "" && !h.listed[found.GetName()]:
		return nil, p.lookInto(ctx, c, h, found)
	case agreed && (!h.verify || restorable(found)):
		return found, nil
	}
	if running := cluster.GetCluster().GetRunningOperation(); running != "" {
		return nil, p.waitFor(ctx, c, h, running)
	}
	if found == nil && h.taken != "" {
		return nil, h.refused(all.GetSnapshots(), nodes)
	}
	return nil, p.advance(ctx, c, h, found, cluster.GetCluster())
}

// lookInto makes sure that the remote holds what the catalog says it does. One that cannot be looked into does not count either.
func (p *program) lookInto(ctx context.Context, c *client, h *preUpgrade, found *requorumv1.Snapshot) error {
	name := found.GetName()
	resp, err := ask(ctx, c.ListRemoteSnapshots, &requorumv1.ListRemoteSnapshotsRequest{Remote: h.remote, Cluster: h.cluster}, planLimit)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	switch {
	case err != nil:
		h.unfit[name] = "remote " + h.remote + " could not be looked into: " + status.Convert(err).Message()
	case !slices.ContainsFunc(resp.GetManifests(), func(m *requorumv1.Manifest) bool { return isCopy(m, found, h.remote) }):
		h.unfit[name] = "remote " + h.remote + " does not hold it any more"
	default:
		h.listed[name] = true
		return nil
	}
	return p.passOver(h, name)
}

// isCopy tells whether a manifest in a remote is of the copy of a snapshot that the catalog has there.
func isCopy(m *requorumv1.Manifest, s *requorumv1.Snapshot, remote string) bool {
	return m.GetName() == s.GetName() && m.GetSha256() == s.GetManifest().GetSha256() &&
		slices.ContainsFunc(s.GetRemotes(), func(c *requorumv1.RemoteCopy) bool {
			return c.GetRemote() == remote && proto.Equal(c.GetObject(), m.GetStored())
		})
}

// passOver says why a snapshot is not used.
func (p *program) passOver(h *preUpgrade, name string) error {
	_, err := fmt.Fprintln(p.err, output.Clean(fmt.Sprintf("%s is not used: %s", name, h.unfit[name])))
	return err
}

// onlyRemote returns the remote that the controller has.
func onlyRemote(ctx context.Context, c *client) (string, error) {
	resp, err := insist(ctx, c, c.ListRemotes, &requorumv1.ListRemotesRequest{})
	if err != nil {
		return "", err
	}
	switch all := resp.GetRemotes(); len(all) {
	case 1:
		return all[0].GetName(), nil
	case 0:
		return "", &RefusedError{
			Message: "--require-remote cannot be met: the controller has no remote",
			Hints:   []string{"nothing was done; name an object store in the controller's configuration (remotes:), or leave --require-remote out if copies on every node are enough"},
		}
	}
	return "", usagef("the controller has several remotes: say which one with --remote NAME (requorum remote ls)")
}

// advance takes a snapshot, or has the nodes read the copies of the one found back, or proves that it can be restored. That another
// operation was faster is no error: the next round waits for it.
func (p *program) advance(ctx context.Context, c *client, h *preUpgrade, found *requorumv1.Snapshot, cluster *requorumv1.Cluster) error {
	op, err := h.start(ctx, c, p.newID(), found, cluster)
	if busy(err) {
		return nil
	}
	if err != nil {
		return err
	}
	op, err = p.follow(ctx, c, op.GetId(), live.NewLines(p.err, p.now))
	if err != nil {
		return err
	}
	name, failed := op.GetSnapshot(), outcome(op)
	switch {
	case found != nil && !h.agreed[found.GetName()] && failed != nil && live.Ended(op):
		h.unfit[found.GetName()] = op.GetFailure().GetMessage()
		return p.passOver(h, found.GetName())
	case found != nil:
		name = found.GetName()
	default:
		h.taken = name
	}
	h.agreed[name] = failed == nil
	return failed
}

// start saves a snapshot, checks the one found, or verifies it if that is done.
func (h *preUpgrade) start(ctx context.Context, c *client, requestID string, found *requorumv1.Snapshot, cluster *requorumv1.Cluster) (*requorumv1.Operation, error) {
	switch {
	case found == nil:
		resp, err := change(ctx, c, c.SaveSnapshot, &requorumv1.SaveSnapshotRequest{
			RequestId: requestID, Cluster: h.cluster, Kind: requorumv1.SnapshotKind_SNAPSHOT_KIND_PRE_UPGRADE, Labels: h.labels(cluster), Remote: h.remote,
		})
		return resp.GetOperation(), err
	case !h.agreed[found.GetName()]:
		resp, err := change(ctx, c, c.CheckSnapshot, &requorumv1.CheckSnapshotRequest{RequestId: requestID, Cluster: h.cluster, Name: found.GetName()})
		return resp.GetOperation(), err
	}
	resp, err := change(ctx, c, c.VerifySnapshot, &requorumv1.VerifySnapshotRequest{RequestId: requestID, Cluster: h.cluster, Name: found.GetName(), Identity: h.identity})
	return resp.GetOperation(), err
}

func (h *preUpgrade) labels(cluster *requorumv1.Cluster) map[string]string {
	labels := map[string]string{labelPreUpgrade: "true"}
	for _, n := range cluster.GetNodes() {
		if v := n.GetMember().GetVersion(); v != "" {
			labels[labelEtcd] = v
		}
	}
	if h.kubernetes != "" {
		labels[labelKubernetes] = h.kubernetes
	}
	return labels
}

// waitFor waits for an operation of somebody else's. How it ends is not this hook's business, unless it needs a person. Of what it has
// saved or checked meanwhile the nodes have just read their copies back.
func (p *program) waitFor(ctx context.Context, c *client, h *preUpgrade, id string) error {
	op, err := p.follow(ctx, c, id, live.NewLines(p.err, p.now))
	if err != nil {
		return err
	}
	if !live.Ended(op) {
		return advised(&OperationError{Operation: op}, "the upgrade cannot begin before that is over")
	}
	switch op.GetKind() {
	case requorumv1.OperationKind_OPERATION_KIND_SAVE, requorumv1.OperationKind_OPERATION_KIND_CHECK:
		h.agreed[op.GetSnapshot()] = outcome(op) == nil
	}
	return nil
}

// choose returns the newest snapshot that is good enough, nil if there is none.
func (h *preUpgrade) choose(all []*requorumv1.Snapshot, nodes []*requorumv1.Node) *requorumv1.Snapshot {
	for _, s := range all { // newest first
		if h.lacks(s, nodes) == "" {
			return s
		}
	}
	return nil
}

// lacks says why a snapshot is not good enough, nothing if it is. Its age is counted to when the hook was called: one
// that was taken while the hook waited is fresh.
func (h *preUpgrade) lacks(s *requorumv1.Snapshot, nodes []*requorumv1.Node) string {
	if s.GetState() != requorumv1.SnapshotState_SNAPSHOT_STATE_READY {
		return "it is " + snapshotState(s.GetState())
	}
	if why := h.unfit[s.GetName()]; why != "" {
		return why
	}
	if s.GetName() != h.taken {
		switch s.GetKind() { // one of a schedule may be gone, by its retention, when it is needed
		case requorumv1.SnapshotKind_SNAPSHOT_KIND_ON_DEMAND, requorumv1.SnapshotKind_SNAPSHOT_KIND_PRE_UPGRADE:
		default:
			return "it is of the kind " + snapshotKind(s.GetKind())
		}
		if s.GetManifest().GetCreated().AsTime().Before(h.began.Add(-h.maxAge.Std())) {
			return "it is older than " + h.maxAge.String()
		}
		if v := s.GetManifest().GetLabels()[labelKubernetes]; v != "" && h.kubernetes != "" && v != h.kubernetes {
			return "it is of Kubernetes " + v
		}
	}
	for _, n := range nodes {
		if state := copyOn(s, n.GetName()); state != requorumv1.CopyState_COPY_STATE_GOOD {
			return "its copy on " + n.GetName() + " is " + copyState(state)
		}
	}
	if h.remote != "" && !storedIn(s, h.remote) {
		return "remote " + h.remote + " holds no good copy"
	}
	if failedSince(s) {
		return "it could not be restored in a drill: " + s.GetFailedVerification().GetError()
	}
	return ""
}

func storedIn(s *requorumv1.Snapshot, remote string) bool {
	return slices.ContainsFunc(s.GetRemotes(), func(c *requorumv1.RemoteCopy) bool {
		return c.GetRemote() == remote && c.GetState() == requorumv1.CopyState_COPY_STATE_GOOD
	})
}

func copyOn(s *requorumv1.Snapshot, node string) requorumv1.CopyState {
	for _, c := range s.GetCopies() {
		if c.GetNode() == node {
			return c.GetState()
		}
	}
	return requorumv1.CopyState_COPY_STATE_MISSING
}

// refused explains why the snapshot that the hook has taken is not good enough.
func (h *preUpgrade) refused(all []*requorumv1.Snapshot, nodes []*requorumv1.Node) error {
	reason := "it is not in the catalog any more"
	for _, s := range all {
		if s.GetName() == h.taken {
			reason = h.lacks(s, nodes)
		}
	}
	return &RefusedError{
		Message: fmt.Sprintf("snapshot %s of %s was taken and is not good enough: %s", h.taken, h.cluster, reason),
		Hints:   []string{"see requorum snapshot show " + h.taken + ", then try again"},
	}
}

// failedSince tells whether the last drill of a snapshot has failed.
func failedSince(s *requorumv1.Snapshot) bool {
	failed := s.GetFailedVerification()
	return failed != nil && failed.GetTime().AsTime().After(s.GetVerified().GetTime().AsTime())
}

func restorable(s *requorumv1.Snapshot) bool { return s.GetVerified() != nil && !failedSince(s) }

// busy tells whether a call was refused because another operation changes the cluster.
func busy(err error) bool {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && strings.EqualFold(info.GetReason(), "BUSY") {
			return true
		}
	}
	return false
}
