package cli

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/cmd/requorum/cli/output"
	"github.com/requorum/requorum/internal/config"
)

func (p *program) snapshotCommand() *cobra.Command {
	return parent(&cobra.Command{
		Use:     "snapshot",
		Aliases: []string{"etcd-snapshot"},
		Short:   "Take, list, check, move and remove snapshots",
		Long: `Take, list, check, move and remove snapshots.

A snapshot is one file, taken of one member, that every node of the cluster
holds and has read back from disk. It is ready only once all of them agree.`,
		Example: "  requorum snapshot save --cluster prod --name pre-1.31\n  requorum snapshot ls",
	}, p.snapshotSave(), p.snapshotLs(), p.snapshotShow(), p.snapshotCheck(), p.snapshotVerify(), p.snapshotDistribute(), p.snapshotRepair(),
		p.snapshotRm(), p.snapshotPrune(), p.snapshotOrphans(), p.snapshotUpload(), p.snapshotImport(), p.snapshotExport())
}

func (p *program) snapshotSave() *cobra.Command {
	req := &requorumv1.SaveSnapshotRequest{}
	command := &cobra.Command{
		Use:   "save",
		Short: "Take a snapshot and make every node hold it",
		Long: `Take a snapshot of one healthy member and make every node hold the same file.

It ends with 0 only when the snapshot is ready: verified on every node, and
stored in the remote, if one is given. So it can stand before an upgrade as it
is.`,
		Example: "  requorum snapshot save --cluster prod --name pre-1.31\n  requorum snapshot save --remote off-site\n  requorum snapshot save --zstd-level 3 --recipients-file recipients.txt\n  requorum snapshot save --label ticket=4711 -o json",
		Args:    takes(),
	}
	j := p.jobFlags(command)
	flags := command.Flags()
	flags.StringVar(&req.Name, "name", "", "`NAME` of the snapshot, not yet taken (default: on-demand-<cluster>-<time>-<id>)")
	flags.BoolVar(&req.HashLeader, "hash-leader", false, "compare the leader's data, too; blocks its writes for about 0.3 s per GiB")
	flags.BoolVar(&req.AllowDegraded, "allow-degraded", false, "save although nodes are offline or members do not answer")
	labelFlag(flags, &req.Labels)
	flags.StringSliceVar(&req.Files, "files", nil, "`SETS` of files, joined by commas, that every node adds, as its agent's configuration names them")
	flags.StringVar(&req.Remote, "remote", "", "store it in the remote `NAME`, too (requorum remote ls)")
	flags.BoolVar(&req.AllowRemoteFailure, "allow-remote-failure", false, "keep the snapshot on the nodes, with a warning, if the remote cannot take it")
	complete(command, "remote", p.completeRemotes)
	var (
		ttl     config.Lifetime
		copies  copyCount
		sealing sealingFlags
	)
	sealing.add(flags)
	timeFlag(flags, &ttl, "ttl", "remove the snapshot by itself at this age, as 30d or 12h (default: never)")
	flags.Var(&copies, "copies", "on how many nodes to keep it: all, one or a number")
	complete(command, "copies", cobra.FixedCompletions([]string{"all", "one"}, cobra.ShellCompDirectiveNoFileComp))
	command.RunE = p.starts(j, func(ctx context.Context, c *client, cluster string) (*requorumv1.Operation, error) {
		req.RequestId, req.Cluster, req.Copies = p.request(j.requestID), cluster, uint32(copies)
		if ttl > 0 {
			req.Ttl = lasting(&ttl)
		}
		if err := sealing.set(req); err != nil {
			return nil, err
		}
		resp, err := change(ctx, c, c.SaveSnapshot, req)
		return resp.GetOperation(), err
	}, func(op *requorumv1.Operation) proto.Message { return &requorumv1.SaveSnapshotResponse{Operation: op} })
	return command
}

// starts makes the work of a command that starts an operation in a cluster and follows it.
func (p *program) starts(j *job, start func(context.Context, *client, string) (*requorumv1.Operation, error), as answer) func(*cobra.Command, []string) error {
	return func(command *cobra.Command, _ []string) error {
		return p.with(command.Context(), func(ctx context.Context, c *client) error {
			cluster, err := c.clusterOr(ctx, j.cluster)
			if err != nil {
				return err
			}
			op, err := start(ctx, c, cluster)
			if err != nil {
				return err
			}
			return p.carryOut(ctx, c, op, j, as)
		})
	}
}

func (p *program) snapshotLs() *cobra.Command {
	var cluster string
	command := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List snapshots, newest first",
		Long:    "List the snapshots of one cluster, or of all, newest first.",
		Example: "  requorum snapshot ls\n  requorum snapshot ls --cluster prod -o json",
		Args:    takes(),
		RunE: func(c *cobra.Command, _ []string) error {
			return p.with(c.Context(), func(ctx context.Context, c *client) error {
				resp, err := ask(ctx, c.ListSnapshots, &requorumv1.ListSnapshotsRequest{Cluster: cluster}, callLimit)
				if err != nil {
					return err
				}
				if p.settings.format != output.Table {
					return output.Message(p.out, p.settings.format, resp)
				}
				table := output.NewTable("NAME", "CLUSTER", "STATE", "AGE", "SIZE", "REVISION", "COPIES", "SEALED", "REMOTES", "KIND", "VERIFIED")
				for _, s := range resp.GetSnapshots() {
					size, revision := p.manifestCells(s.GetManifest())
					table.Row(s.GetName(), s.GetCluster(), snapshotState(s.GetState()), output.Ago(s.GetCreated(), p.now()), size, revision, copies(s), sealedCell(s.GetManifest()), remotesOf(s), snapshotKind(s.GetKind()), p.verified(s))
				}
				_, err = table.WriteTo(p.out)
				return err
			})
		},
	}
	p.clusterFlag(command, &cluster)
	command.Flags().Lookup("cluster").Usage = "list only the snapshots of the cluster `NAME`"
	return command
}

func (p *program) manifestCells(m *requorumv1.Manifest) (size, revision string) {
	if m == nil {
		return "", ""
	}
	return output.Bytes(m.GetSize()), p.number(m.GetRevision())
}

func copies(s *requorumv1.Snapshot) string {
	if len(s.GetCopies()) == 0 {
		return ""
	}
	good := 0
	for _, c := range s.GetCopies() {
		if c.GetState() == requorumv1.CopyState_COPY_STATE_GOOD {
			good++
		}
	}
	if s.GetKind() == requorumv1.SnapshotKind_SNAPSHOT_KIND_SAFETY && good == 1 && len(s.GetCopies()) == 1 {
		return "only on " + s.GetCopies()[0].GetNode() // of 1 would read as if every node had it
	}
	return fmt.Sprintf("%d of %d good", good, len(s.GetCopies()))
}

// remotesOf names the remotes that hold a good copy.
func remotesOf(s *requorumv1.Snapshot) string {
	var names []string
	for _, c := range s.GetRemotes() {
		name := c.GetRemote()
		if c.GetState() != requorumv1.CopyState_COPY_STATE_GOOD {
			name += " (" + copyState(c.GetState()) + ")"
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}

// verified tells whether a snapshot was proved restorable, and when that was tried last.
func (p *program) verified(s *requorumv1.Snapshot) string {
	good, bad := s.GetVerified(), s.GetFailedVerification()
	switch {
	case failedSince(s):
		return "FAILED " + output.Ago(bad.GetTime(), p.now()) + " on " + bad.GetNode()
	case good != nil:
		return output.Ago(good.GetTime(), p.now()) + " on " + good.GetNode()
	case s.GetState() == requorumv1.SnapshotState_SNAPSHOT_STATE_READY:
		return "never"
	}
	return ""
}

func snapshotState(s requorumv1.SnapshotState) string { return word(s.String(), "SNAPSHOT_STATE_") }
func snapshotKind(k requorumv1.SnapshotKind) string   { return word(k.String(), "SNAPSHOT_KIND_") }
func copyState(s requorumv1.CopyState) string         { return word(s.String(), "COPY_STATE_") }

// word turns an enum's name into a word for people.
func word(enum, prefix string) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(enum, prefix)), "_", "-")
}

func (p *program) snapshotShow() *cobra.Command {
	var cluster string
	command := &cobra.Command{
		Use:               "show NAME",
		Short:             "Show a snapshot and its copies",
		Long:              "Show what is known of a snapshot and of its copies. NAME may be latest.",
		Example:           "  requorum snapshot show pre-1.31\n  requorum snapshot show latest -o yaml",
		Args:              takes("NAME"),
		ValidArgsFunction: firstArgument(p.completeSnapshots),
		RunE: func(c *cobra.Command, args []string) error {
			return p.with(c.Context(), func(ctx context.Context, c *client) error {
				cluster, err := c.clusterOr(ctx, cluster)
				if err != nil {
					return err
				}
				resp, err := ask(ctx, c.GetSnapshot, &requorumv1.GetSnapshotRequest{Cluster: cluster, Name: args[0]}, callLimit)
				if err != nil {
					return err
				}
				if p.settings.format != output.Table {
					return output.Message(p.out, p.settings.format, resp)
				}
				return p.writeSnapshot(resp.GetSnapshot())
			})
		},
	}
	p.clusterFlag(command, &cluster)
	return command
}

func (p *program) writeSnapshot(s *requorumv1.Snapshot) error {
	fields := output.NewFields()
	fields.Add("Snapshot", "%s", s.GetName())
	fields.Add("Cluster", "%s", s.GetCluster())
	fields.Add("State", "%s", snapshotState(s.GetState()))
	fields.Add("Error", "%s", s.GetError())
	fields.Add("Kind", "%s", snapshotKind(s.GetKind()))
	fields.Add("Created", "%s", output.Time(s.GetCreated()))
	fields.Add("Schedule", "%s", s.GetSchedule())
	fields.Add("Expires", "%s", output.Time(s.GetExpires()))
	fields.Add("Operation", "%s", s.GetOperationId())
	addVerification(fields, s)
	if s.GetManifest() != nil {
		p.addManifest(fields, s.GetManifest())
	}
	if _, err := fields.WriteTo(p.out); err != nil {
		return err
	}
	if err := p.writeCopies(s); err != nil || len(s.GetRemotes()) == 0 {
		return err
	}
	return p.writeRemotes(s)
}

func (p *program) writeRemotes(s *requorumv1.Snapshot) error {
	table := output.NewTable("REMOTE", "COPY", "CHECKED", "STORED", "SEALED", "FILES OF", "WHERE")
	for _, c := range s.GetRemotes() {
		var nodes []string
		for _, b := range c.GetBundles() {
			nodes = append(nodes, b.GetNode())
		}
		o := c.GetObject()
		table.Row(c.GetRemote(), copyState(c.GetState()), output.Time(c.GetChecked()), output.Bytes(o.GetSize()), sealed(o), strings.Join(nodes, ", "), strings.TrimSpace(o.GetKey()+" "+c.GetDetail()))
	}
	if _, err := fmt.Fprintln(p.out); err != nil {
		return err
	}
	_, err := table.WriteTo(p.out)
	return err
}

func (p *program) writeCopies(s *requorumv1.Snapshot) error {
	if len(s.GetCopies()) == 0 {
		return nil
	}
	table := output.NewTable("NODE", "COPY", "CHECKED", "MD5", "WHERE")
	for _, c := range s.GetCopies() {
		table.Row(c.GetNode(), copyState(c.GetState()), output.Time(c.GetChecked()), c.GetMd5(), strings.TrimSpace(c.GetPath()+" "+c.GetDetail()))
	}
	if _, err := fmt.Fprintln(p.out); err != nil {
		return err
	}
	_, err := table.WriteTo(p.out)
	return err
}

func addVerification(fields *output.Fields, s *requorumv1.Snapshot) {
	if v := s.GetVerified(); v != nil {
		fields.Add("Verified", "%s on %s: restored and read in %s", output.Time(v.GetTime()), v.GetNode(), output.Took(v.GetTook().AsDuration()))
	}
	if v := s.GetFailedVerification(); v != nil {
		fields.Add("Not restorable", "%s on %s: %s", output.Time(v.GetTime()), v.GetNode(), v.GetError())
	}
}

func (p *program) addManifest(fields *output.Fields, m *requorumv1.Manifest) {
	fields.Add("Saved by", "%s", m.GetNode())
	fields.Add("Size", "%s (%d bytes)", output.Bytes(m.GetSize()), m.GetSize())
	fields.Add("MD5", "%s", m.GetMd5())
	fields.Add("SHA-256", "%s", m.GetSha256())
	fields.Add("Sealed on nodes", "%s", sealedOnNodes(m))
	fields.Add("Revision", "%s", p.number(m.GetRevision()))
	fields.Add("Compacted to", "%s", p.number(m.GetCompactRevision()))
	fields.Add("Keys", "%s", p.number(m.GetKeys()))
	fields.Add("HashKV", "%d", m.GetHashKv())
	fields.Add("etcd", "%s", m.GetEtcdVersion())
	fields.Add("Kubernetes", "%s", m.GetKubernetesVersion())
	fields.Add("Cluster ID", "%s", m.GetClusterId())
	var members, alarms []string
	for _, member := range m.GetMembers() {
		members = append(members, member.GetName())
	}
	for _, alarm := range m.GetAlarms() {
		alarms = append(alarms, alarm.GetType())
	}
	fields.Add("Members", "%s", strings.Join(members, ", "))
	fields.Add("Alarms", "%s", strings.Join(alarms, ", "))
	if m.GetAuthEnabled() {
		fields.Add("Auth", "on: the users and passwords of that day come back with it")
	}
	if !m.GetHasTrailer() {
		fields.Add("Trailer", "none: the file does not end in etcd's SHA-256")
	}
	fields.Add("Labels", "%s", labelList(m.GetLabels()))
	for _, b := range m.GetBundles() {
		fields.Add("Files of "+b.GetNode(), "%s: %d files and directories, %s", strings.Join(b.GetSets(), ", "), b.GetFiles(), output.Bytes(b.GetSize()))
	}
}

func labelList(labels map[string]string) string {
	var list []string
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		list = append(list, key+"="+labels[key])
	}
	return strings.Join(list, ", ")
}

func (p *program) snapshotCheck() *cobra.Command {
	command := &cobra.Command{
		Use:   "check NAME",
		Short: "Make every node read its copy back from disk and compare",
		Long: `Make every node read its copy back from disk and compare it with the manifest.
Present, missing, unreadable and different are told apart. NAME may be latest.`,
		Example:           "  requorum snapshot check pre-1.31",
		Args:              takes("NAME"),
		ValidArgsFunction: firstArgument(p.completeSnapshots),
	}
	j := p.jobFlags(command)
	command.RunE = func(c *cobra.Command, args []string) error {
		return p.starts(j, func(ctx context.Context, c *client, cluster string) (*requorumv1.Operation, error) {
			resp, err := change(ctx, c, c.CheckSnapshot, &requorumv1.CheckSnapshotRequest{RequestId: p.request(j.requestID), Cluster: cluster, Name: args[0]})
			return resp.GetOperation(), err
		}, func(op *requorumv1.Operation) proto.Message { return &requorumv1.CheckSnapshotResponse{Operation: op} })(c, args)
	}
	return command
}

func (p *program) snapshotVerify() *cobra.Command {
	req := &requorumv1.VerifySnapshotRequest{}
	command := &cobra.Command{
		Use:   "verify NAME",
		Short: "Prove on one node that a snapshot can be restored",
		Long: `Prove on one node that a snapshot can be restored, without touching the live
cluster: the file is restored into a scratch directory, an etcd of its own is
started on that, reachable by nobody else, and every key is read from it and
compared with what was saved. Then everything is removed. NAME may be latest.

It is refused where it would leave too little space for a live etcd on the same
disk. No other operation can begin on the cluster meanwhile; cancel it
(requorum operation cancel) if one has to.

Copies that are encrypted on the nodes need the key of one of their recipients.`,
		Example:           "  requorum snapshot verify pre-1.31\n  requorum snapshot verify latest --node etcd-2 --identity key.txt",
		Args:              takes("NAME"),
		ValidArgsFunction: firstArgument(p.completeSnapshots),
	}
	j := p.jobFlags(command)
	command.Flags().StringVar(&req.Node, "node", "", "`NODE` to do it on (default: one with a good copy whose member does not lead)")
	complete(command, "node", p.completeNodes)
	var identity string
	identityFlag(command.Flags(), &identity)
	command.RunE = func(c *cobra.Command, args []string) (err error) {
		if req.Identity, err = readIdentity(identity); err != nil {
			return err
		}
		return p.starts(j, func(ctx context.Context, c *client, cluster string) (*requorumv1.Operation, error) {
			req.RequestId, req.Cluster, req.Name = p.request(j.requestID), cluster, args[0]
			resp, err := change(ctx, c, c.VerifySnapshot, req)
			return resp.GetOperation(), err
		}, func(op *requorumv1.Operation) proto.Message { return &requorumv1.VerifySnapshotResponse{Operation: op} })(c, args)
	}
	return command
}

func (p *program) snapshotDistribute() *cobra.Command {
	command := &cobra.Command{
		Use:               "distribute NAME",
		Short:             "Give every node that lacks a good copy one",
		Long:              "Give every node that lacks a good copy of a snapshot one, as after a node was\nreplaced. Where no node has one, it is fetched from a remote. NAME may be latest.",
		Example:           "  requorum snapshot distribute pre-1.31",
		Args:              takes("NAME"),
		ValidArgsFunction: firstArgument(p.completeSnapshots),
	}
	j := p.jobFlags(command)
	var identity string
	identityFlag(command.Flags(), &identity)
	command.RunE = func(c *cobra.Command, args []string) error {
		key, err := readIdentity(identity)
		if err != nil {
			return err
		}
		return p.starts(j, func(ctx context.Context, c *client, cluster string) (*requorumv1.Operation, error) {
			resp, err := change(ctx, c, c.DistributeSnapshot, &requorumv1.DistributeSnapshotRequest{RequestId: p.request(j.requestID), Cluster: cluster, Name: args[0], Identity: key})
			return resp.GetOperation(), err
		}, func(op *requorumv1.Operation) proto.Message {
			return &requorumv1.DistributeSnapshotResponse{Operation: op}
		})(c, args)
	}
	return command
}

func (p *program) snapshotRepair() *cobra.Command {
	command := &cobra.Command{
		Use:   "repair NAME",
		Short: "Give a snapshot back the copies that it is to have",
		Long: `Give a snapshot back the copies that it is to have, from one that is good: on
every node, or on as many nodes as were asked for when it was taken (--copies),
and in the remotes that stored it. Copies that are missing, unreadable or
different are replaced. Where no node has a good one, it is fetched from a
remote. NAME may be latest.`,
		Example:           "  requorum snapshot repair nightly-prod-20260304T020000Z-k3x9qa",
		Args:              takes("NAME"),
		ValidArgsFunction: firstArgument(p.completeSnapshots),
	}
	j := p.jobFlags(command)
	var identity string
	identityFlag(command.Flags(), &identity)
	command.RunE = func(c *cobra.Command, args []string) error {
		key, err := readIdentity(identity)
		if err != nil {
			return err
		}
		return p.starts(j, func(ctx context.Context, c *client, cluster string) (*requorumv1.Operation, error) {
			resp, err := change(ctx, c, c.RepairSnapshot, &requorumv1.RepairSnapshotRequest{RequestId: p.request(j.requestID), Cluster: cluster, Name: args[0], Identity: key})
			return resp.GetOperation(), err
		}, func(op *requorumv1.Operation) proto.Message { return &requorumv1.RepairSnapshotResponse{Operation: op} })(c, args)
	}
	return command
}

func (p *program) snapshotOrphans() *cobra.Command {
	var cluster string
	command := &cobra.Command{
		Use:   "orphans",
		Short: "List copies on nodes and in remotes that the catalog does not know",
		Long: `Ask the nodes, and look into the remotes, for copies that the catalog does not
know, as after the catalog was lost, and for objects in the remotes that belong
to no snapshot. Nothing removes them by itself: requorum catalog rebuild takes
snapshots into the catalog, where snapshot rm can remove them.`,
		Example: "  requorum snapshot orphans --cluster prod",
		Args:    takes(),
		RunE: func(c *cobra.Command, _ []string) error {
			return p.with(c.Context(), func(ctx context.Context, c *client) error {
				cluster, err := c.clusterOr(ctx, cluster)
				if err != nil {
					return err
				}
				resp, err := ask(ctx, c.ListOrphans, &requorumv1.ListOrphansRequest{Cluster: cluster}, planLimit)
				if err != nil {
					return err
				}
				if p.settings.format != output.Table {
					return output.Message(p.out, p.settings.format, resp)
				}
				return p.writeOrphans(resp)
			})
		},
	}
	p.clusterFlag(command, &cluster)
	return command
}

func (p *program) writeOrphans(resp *requorumv1.ListOrphansResponse) error {
	table := output.NewTable("WHERE", "NAME", "AGE", "SIZE", "REVISION", "KIND")
	snapshots := false
	for _, o := range resp.GetOrphans() {
		m, where := o.GetManifest(), o.GetNode()
		if o.GetRemote() != "" {
			where = "remote " + o.GetRemote()
		}
		if m == nil {
			table.Row(where, o.GetKey(), "", "", "", "no snapshot")
			continue
		}
		snapshots = true
		size, revision := p.manifestCells(m)
		table.Row(where, m.GetName(), output.Ago(m.GetCreated(), p.now()), size, revision, snapshotKind(m.GetKind()))
	}
	if _, err := table.WriteTo(p.out); err != nil {
		return err
	}
	for _, node := range resp.GetSilent() {
		if _, err := fmt.Fprintf(p.out, "%s did not answer: what it holds is not shown\n", output.Clean(node)); err != nil {
			return err
		}
	}
	for _, problem := range resp.GetProblems() {
		if _, err := fmt.Fprintln(p.out, output.Clean(problem)); err != nil {
			return err
		}
	}
	if snapshots {
		p.hint("to take the snapshots into the catalog: requorum catalog rebuild")
	}
	return nil
}

func (p *program) catalogCommand() *cobra.Command {
	return parent(&cobra.Command{
		Use:     "catalog",
		Short:   "Rebuild the list of snapshots from what nodes and remotes hold",
		Long:    "Rebuild the controller's list of snapshots from the manifests on the nodes and in\nremotes.",
		Example: "  requorum catalog rebuild --cluster prod",
	}, p.catalogRebuild())
}

func (p *program) catalogRebuild() *cobra.Command {
	var (
		from   []string
		dryRun bool
	)
	command := &cobra.Command{
		Use:   "rebuild",
		Short: "Take into the catalog what nodes and remotes hold and it does not know",
		Long: `Take into the catalog what the nodes hold and the catalog does not know, as after
the controller's data was lost. Every file is read back from disk and compared
with its manifest first. With --from, what is in a remote is taken, too, by its
manifest. What the catalog knows already stays as it is; another snapshot of the
same name is told of and left out.`,
		Example: "  requorum catalog rebuild --cluster prod\n  requorum catalog rebuild --from off-site --dry-run",
		Args:    takes(),
	}
	j := p.jobFlags(command)
	command.Flags().StringSliceVar(&from, "from", nil, "look into the remote `NAME`, too; may be given again")
	complete(command, "from", p.completeRemotes)
	command.Flags().BoolVar(&dryRun, "dry-run", false, "show what would be taken, by the manifests; take nothing")
	rebuild := p.starts(j, func(ctx context.Context, c *client, cluster string) (*requorumv1.Operation, error) {
		resp, err := change(ctx, c, c.RebuildCatalog, &requorumv1.RebuildCatalogRequest{RequestId: p.request(j.requestID), Cluster: cluster, From: from})
		return resp.GetOperation(), err
	}, func(op *requorumv1.Operation) proto.Message { return &requorumv1.RebuildCatalogResponse{Operation: op} })
	command.RunE = func(command *cobra.Command, args []string) error {
		if !dryRun {
			return rebuild(command, args)
		}
		return p.with(command.Context(), func(ctx context.Context, c *client) error {
			cluster, err := c.clusterOr(ctx, j.cluster)
			if err != nil {
				return err
			}
			resp, err := ask(ctx, c.PlanRebuild, &requorumv1.PlanRebuildRequest{Cluster: cluster, From: from}, planLimit)
			if err != nil {
				return err
			}
			return p.writeRebuild(resp)
		})
	}
	return command
}

func (p *program) writeRebuild(resp *requorumv1.PlanRebuildResponse) error {
	if p.settings.format != output.Table {
		return output.Message(p.out, p.settings.format, resp)
	}
	table := output.NewTable("NAME", "AGE", "SIZE", "REVISION", "KIND", "NODES", "REMOTES", "WHAT")
	for _, e := range resp.GetEntries() {
		m, what := e.GetManifest(), "enter"
		if e.GetKnown() {
			what = "note the remote copy"
		}
		size, revision := p.manifestCells(m)
		table.Row(m.GetName(), output.Ago(m.GetCreated(), p.now()), size, revision, snapshotKind(m.GetKind()), strings.Join(e.GetNodes(), ", "), strings.Join(e.GetRemotes(), ", "), what)
	}
	if _, err := table.WriteTo(p.out); err != nil {
		return err
	}
	for _, note := range resp.GetNotes() {
		if _, err := fmt.Fprintln(p.out, output.Clean(note)); err != nil {
			return err
		}
	}
	return nil
}

func (p *program) snapshotRm() *cobra.Command {
	var yes bool
	req := &requorumv1.DeleteSnapshotRequest{}
	command := &cobra.Command{
		Use:     "rm NAME",
		Aliases: []string{"delete"},
		Short:   "Remove a snapshot and all of its copies",
		Long: `Remove every copy of a snapshot, also in remotes, and its entry in the
catalog. The last good snapshot of a cluster is kept unless --force is given.
With --keep-remotes it goes from the nodes only, with --only-remote from one
remote only; both are refused where no good copy would be left. Needs the role
admin.`,
		Example:           "  requorum snapshot rm pre-1.30 --yes\n  requorum snapshot rm pre-1.30 --keep-remotes --yes",
		Args:              takes("NAME"),
		ValidArgsFunction: firstArgument(p.completeSnapshots),
	}
	j := p.jobFlags(command)
	command.Flags().BoolVar(&req.Force, "force", false, "remove it even if it is the cluster's last good snapshot")
	command.Flags().BoolVar(&req.KeepRemotes, "keep-remotes", false, "remove it from the nodes only")
	command.Flags().StringVar(&req.OnlyRemote, "only-remote", "", "remove it from the remote `NAME` only")
	complete(command, "only-remote", p.completeRemotes)
	command.MarkFlagsMutuallyExclusive("force", "keep-remotes", "only-remote")
	command.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	command.RunE = func(c *cobra.Command, args []string) error {
		return p.starts(j, func(ctx context.Context, c *client, cluster string) (*requorumv1.Operation, error) {
			if !yes {
				if err := p.confirm(ctx, fmt.Sprintf("Remove snapshot %s of %s from %s?", args[0], cluster, places(req))); err != nil {
					return nil, err
				}
			}
			req.RequestId, req.Cluster, req.Name = p.request(j.requestID), cluster, args[0]
			resp, err := change(ctx, c, c.DeleteSnapshot, req)
			return resp.GetOperation(), err
		}, func(op *requorumv1.Operation) proto.Message { return &requorumv1.DeleteSnapshotResponse{Operation: op} })(c, args)
	}
	return command
}

// places says where a snapshot is removed.
func places(req *requorumv1.DeleteSnapshotRequest) string {
	switch {
	case req.GetKeepRemotes():
		return "every node"
	case req.GetOnlyRemote() != "":
		return "remote " + req.GetOnlyRemote()
	}
	return "every node and remote"
}

func (p *program) snapshotImport() *cobra.Command {
	req := &requorumv1.ImportSnapshotRequest{}
	var identity string
	command := &cobra.Command{
		Use:   "import {--node NODE --path PATH | --from REMOTE:NAME}",
		Short: "Take a file on a node, or a snapshot in a remote, into the catalog",
		Long: `Take a file that lies on a node, made with "etcdctl snapshot save", into the
catalog and make every node hold it. The file is copied; the original stays.

With --from it is a snapshot that a remote holds, as after the controller's data
was lost; it keeps its name.`,
		Example: "  requorum snapshot import --node etcd-1 --path /backup/etcd.db --name from-cron\n  requorum snapshot import --from off-site:pre-1.31 --identity key.txt",
		Args:    takes(),
	}
	j := p.jobFlags(command)
	flags := command.Flags()
	flags.StringVar(&req.Node, "node", "", "`NODE` on which the file lies; with --from the one that fetches it (default any)")
	fromFlag(flags, &req.From)
	identityFlag(flags, &identity)
	flags.StringVar(&req.Path, "path", "", "absolute `PATH` of the file on that node")
	flags.StringVar(&req.Name, "name", "", "`NAME` of the snapshot, not yet taken (default: imported-<cluster>-<time>-<id>)")
	flags.BoolVar(&req.SkipHashCheck, "skip-hash-check", false, "accept a file without a trailing SHA-256, as a stopped member's db is")
	labelFlag(flags, &req.Labels)
	complete(command, "node", p.completeNodes)
	work := p.starts(j, func(ctx context.Context, c *client, cluster string) (*requorumv1.Operation, error) {
		req.RequestId, req.Cluster = p.request(j.requestID), cluster
		resp, err := change(ctx, c, c.ImportSnapshot, req)
		return resp.GetOperation(), err
	}, func(op *requorumv1.Operation) proto.Message { return &requorumv1.ImportSnapshotResponse{Operation: op} })
	oneOf(command, "path", "from")
	command.RunE = func(c *cobra.Command, args []string) (err error) {
		if req.GetFrom() == "" && req.GetNode() == "" {
			return usagef("--node is missing: the one on which the file lies")
		}
		if req.Identity, err = readIdentity(identity); err != nil {
			return err
		}
		return work(c, args)
	}
	return command
}

// confirm asks a question that only y or yes answers in the affirmative.
func (p *program) confirm(ctx context.Context, question string) error {
	if !p.asks() {
		return usagef("nobody can be asked to confirm, as stdin is not a terminal; to go ahead without being asked give --yes")
	}
	// An answer given before the question was seen is none.
	if err := p.forget(); err != nil {
		return err
	}
	if _, err := fmt.Fprint(p.err, output.Clean(question)+" [y/N] "); err != nil {
		return err
	}
	answered := make(chan string, 1)
	go func() {
		// The read cannot be interrupted; the process ends soon after ctx does. No answer is a no.
		line, _ := bufio.NewReader(p.in).ReadString('\n')
		answered <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case <-ctx.Done():
		if _, err := fmt.Fprintln(p.err); err != nil {
			return err
		}
		return fmt.Errorf("not confirmed; nothing was changed")
	case answer := <-answered:
		if answer != "y" && answer != "yes" {
			return fmt.Errorf("not confirmed; nothing was changed")
		}
		return nil
	}
}
