package restore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"google.golang.org/protobuf/proto"

	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/failure"
	"github.com/requorum/requorum/controller/sealing"
	"github.com/requorum/requorum/controller/snapshot"
)

func (p *prepared) pass(name, format string, args ...any) {
	p.checks = append(p.checks, &requorumv1.Check{Name: name, State: requorumv1.CheckState_CHECK_STATE_PASSED, Message: fmt.Sprintf(format, args...)})
}

func (p *prepared) warn(name, node, message, advice string) {
	p.checks = append(p.checks, &requorumv1.Check{Name: name, Node: node, State: requorumv1.CheckState_CHECK_STATE_WARNING, Message: message, Advice: advice})
}

func (p *prepared) fail(name, node, message, advice string) {
	p.checks = append(p.checks, &requorumv1.Check{Name: name, Node: node, State: requorumv1.CheckState_CHECK_STATE_FAILED, Message: message, Advice: advice})
}

func (p *prepared) failed() bool { return p.firstFailure() != nil }

func (p *prepared) firstFailure() *requorumv1.Check {
	for _, c := range p.checks {
		if c.GetState() == requorumv1.CheckState_CHECK_STATE_FAILED {
			return c
		}
	}
	return nil
}

// refusal returns the first failed check as an error, nil if there is none.
func (p *prepared) refusal() error {
	c := p.firstFailure()
	if c == nil {
		return nil
	}
	return &failure.Error{Node: c.GetNode(), Message: c.GetMessage(), Advice: c.GetAdvice() + " (nothing was stopped or changed)"}
}

// checkSnapshot tells whether the snapshot can be used at all.
func (p *prepared) checkSnapshot() bool {
	s, m := p.snapshot, p.snapshot.GetManifest()
	if !catalog.Good(s) {
		p.fail("snapshot", "", fmt.Sprintf("%s is %s, not READY", s.GetName(), snapshot.StateName(s.GetState())), "choose another one (requorum snapshot ls)")
		return false
	}
	age := time.Since(m.GetCreated().AsTime())
	taken := fmt.Sprintf("%s ago", age.Round(time.Second))
	if age < -clockError {
		taken = fmt.Sprintf("at a time to come (in %s)", (-age).Round(time.Second))
	}
	text := fmt.Sprintf("%s taken %s on %s, revision %d, %s, MD5 %s", s.GetName(), taken, m.GetNode(), m.GetRevision(), humanize.IBytes(uint64(m.GetSize())), m.GetMd5())
	switch {
	case age > oldSnapshot:
		p.warn("snapshot", "", text, "it is older than 72 h: a newer one may be better")
	case age < -clockError:
		p.warn("snapshot", "", text, fmt.Sprintf("the clock of %s or of the controller was wrong, or is: compare them", m.GetNode()))
	default:
		p.pass("snapshot", "%s", text)
	}
	for _, a := range m.GetAlarms() {
		if a.GetType() == "NOSPACE" {
			p.warn("alarms", "", "the snapshot carries the alarm NOSPACE", "it is cleared after the start if the database fits the quota")
			continue
		}
		p.fail("alarms", "", fmt.Sprintf("the snapshot carries the alarm %s of member %s", a.GetType(), a.GetMemberId()), "choose another snapshot")
	}
	if m.GetAuthEnabled() {
		p.warn("auth", "", "etcd authentication is on in the snapshot", "the users and passwords of that day come back")
	}
	if m.GetLeases() > 0 {
		p.pass("leases", "%d leases come back and go on running", m.GetLeases())
	}
	return true
}

// checkNodes looks at configuration, space and quota of each node.
func (p *prepared) checkNodes() {
	names, urls := map[string]string{}, map[string]string{}
	for _, n := range p.nodes {
		f := p.facts[n.GetNode()]
		if f.GetProblem() != "" {
			p.fail("runtime", n.GetNode(), f.GetProblem(), "repair that, then try again")
		}
		p.checkMember(n, names, urls)
		p.checkSpace(n.GetNode())
		quota, size := f.GetMember().GetQuotaBytes(), p.snapshot.GetManifest().GetSize()
		if quota == 0 {
			quota = 2 << 30 // etcd's default
		}
		if size > quota {
			p.fail("quota", n.GetNode(), fmt.Sprintf("the snapshot has %s, the member's quota is %s", humanize.IBytes(uint64(size)), humanize.IBytes(uint64(quota))),
				"raise quota-backend-bytes on that node")
		}
	}
	if p.votersAmong() == 0 {
		p.fail("config", "", "no node with a voting member takes part", "name at least one with --nodes")
	}
	if !p.failed() {
		p.pass("nodes", "members %s with %s", strings.Join(slices.Sorted(maps.Keys(names)), ", "), "their configuration, space and quota")
	}
}

func (p *prepared) checkMember(n *journalv1.RestoreNode, names, urls map[string]string) {
	node := n.GetNode()
	switch {
	case n.GetMember() == "":
		p.fail("config", node, "the member's name is not known", "give it in the agent's configuration")
	case len(n.GetPeerUrls()) == 0:
		p.fail("config", node, "the member's peer URLs are not known", "give them in the agent's configuration")
	case n.GetLearner() && !p.facts[node].GetCanJoinLearner():
		p.fail("config", node, "its member is a learner, which its runtime cannot start anew",
			"leave the node out (--nodes "+strings.Join(without(p.spec.GetNodes(), node), ",")+") and add the learner again afterwards")
	case n.GetLearner():
		p.warn("config", node, "its member is a learner", "it joins the restored cluster again as one, empty, after the others serve")
	}
	if other, taken := names[n.GetMember()]; taken {
		p.fail("config", node, fmt.Sprintf("its member has the name %s, as the one on %s", n.GetMember(), other), "give every member a name of its own")
	}
	names[n.GetMember()] = node
	for _, u := range n.GetPeerUrls() {
		if other, taken := urls[u]; taken {
			p.fail("config", node, fmt.Sprintf("its member has the peer URL %s, as the one on %s", u, other), "give every member URLs of its own")
		}
		urls[u] = node
	}
}

// checkSpace makes sure that a node can hold the copy, the staged data and, on one of them, a safety snapshot.
func (p *prepared) checkSpace(node string) {
	f, m := p.facts[node], p.snapshot.GetManifest()
	vault := uint64(f.GetMember().GetDbSize()) // the safety snapshot
	if p.sealing != nil {
		vault *= 2 // which is inspected in the clear beside what is sealed
	}
	if snapshot.SealedAs(m, p.sealing) != nil {
		vault = max(vault, uint64(m.GetSize())) // before that, the copy is opened there to be staged
	}
	if !slices.Contains(snapshot.GoodOn(p.copies), node) {
		vault += uint64(catalog.FileSize(m))
	}
	if vault > 0 {
		vault += snapshot.Headroom
	}
	data := uint64(f.GetDataNeededBytes())
	if f.GetSharedFileSystem() {
		data, vault = data+vault, 0
	}
	if free := f.GetDataFreeBytes(); free < data {
		p.fail("space", node, fmt.Sprintf("%s free beside %s, %s needed", humanize.IBytes(free), f.GetMember().GetDataDir(), humanize.IBytes(data)),
			"free space there, or remove old snapshots (requorum snapshot rm)")
	}
	if free, wal := f.GetWalFreeBytes(), uint64(f.GetWalNeededBytes()); free < wal {
		p.fail("space", node, fmt.Sprintf("%s free beside %s, %s needed", humanize.IBytes(free), f.GetMember().GetWalDir(), humanize.IBytes(wal)),
			"free space there, or make the file system larger")
	}
	if free := f.GetVaultFreeBytes(); free < vault {
		p.fail("space", node, fmt.Sprintf("%s free where snapshots are kept, %s needed", humanize.IBytes(free), humanize.IBytes(vault)),
			"free space there, or remove old snapshots (requorum snapshot rm)")
	}
}

// checkCopies makes sure that at least one node can give the file to the others.
func (p *prepared) checkCopies() {
	good := snapshot.GoodOn(p.copies)
	switch {
	case len(good) == len(p.copies) && p.copiesAsKnown:
		p.pass("copies", "copies agreed on all nodes when they were last read, MD5 %s; they are read again before anything is stopped", p.snapshot.GetManifest().GetMd5())
		return
	case len(good) == len(p.copies):
		p.pass("copies", "copies agree on all nodes, MD5 %s", p.snapshot.GetManifest().GetMd5())
		return
	}
	for _, c := range p.copies {
		if c.GetState() == requorumv1.CopyState_COPY_STATE_GOOD {
			continue
		}
		text := fmt.Sprintf("its copy is %s (%s)", snapshot.CopyStateName(c.GetState()), c.GetDetail())
		switch {
		case len(good) > 0:
			p.warn("copies", c.GetNode(), text, "it gets the file from "+good[0])
		case len(p.remotes) > 0:
			p.warn("copies", c.GetNode(), text, "it gets the file that is fetched from remote "+p.remotes[0].GetRemote())
		case p.spec.GetSkipHashCheck():
			p.warn("copies", c.GetNode(), text, "hash checks are skipped on request")
		default:
			p.fail("copies", c.GetNode(), text, "no node holds a good copy: choose another snapshot, or import the file again (requorum snapshot import)")
		}
	}
	if len(good) == 0 && len(p.remotes) == 0 && !slices.ContainsFunc(p.copies, usable) {
		p.fail("copies", "", "no node holds a readable copy", "choose another snapshot, or import the file again (requorum snapshot import)")
	}
}

// checkRemotes looks, where no node holds a good copy, which remotes can give one.
func (j *Jobs) checkRemotes(ctx context.Context, ask Asker, p *prepared) error {
	if len(snapshot.GoodOn(p.copies)) > 0 || len(p.spec.GetNodes()) == 0 {
		return nil
	}
	for _, c := range p.snapshot.GetRemotes() {
		node := p.spec.GetNodes()[0]
		stored, err := snapshot.LookAt(ctx, ask, j.Remotes, p.spec.GetCluster(), node, c, p.snapshot.GetManifest())
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			p.warn("remote", "", fmt.Sprintf("the copy in remote %s cannot be used: %v", c.GetRemote(), err), "see whether the node reaches the remote")
			continue
		}
		c = proto.CloneOf(c)
		c.Object = stored
		p.remotes = append(p.remotes, c)
		text := fmt.Sprintf("no node holds a good copy; %s fetches it from remote %s (%s stored)", node, c.GetRemote(), humanize.IBytes(uint64(stored.GetSize())))
		if len(stored.GetRecipients()) > 0 {
			p.warn("remote", "", text+"; it is encrypted", "the restore needs the key file of one of its recipients (--identity)")
			continue
		}
		p.pass("remote", "%s", text)
	}
	return nil
}

// checkSealed refuses copies that are encrypted on the nodes, or will be once they were fetched, unless they can be opened.
func (p *prepared) checkSealed(identity string) {
	m := p.snapshot.GetManifest()
	recipients, are := m.GetLocal().GetRecipients(), "the copies on the nodes are"
	if len(recipients) == 0 && len(snapshot.GoodOn(p.copies)) == 0 && len(p.remotes) > 0 {
		recipients, are = snapshot.SealedAs(m, p.sealing).GetRecipients(), "by the controller's configuration the copy that is fetched to the nodes is"
	}
	if len(recipients) == 0 {
		return
	}
	if refused, is := errors.AsType[*failure.Error](snapshot.CanOpen(are, identity, recipients)); is {
		p.fail("encryption", "", refused.Message, refused.Advice)
		return
	}
	p.pass("encryption", "%s encrypted for %s, and the identity is for one of these recipients", are, sealing.Names(recipients))
}

func usable(c *requorumv1.Copy) bool {
	return c.GetState() == requorumv1.CopyState_COPY_STATE_GOOD || c.GetState() == requorumv1.CopyState_COPY_STATE_DIFFERENT
}

// checkVersions compares the etcd on the nodes with each other and with the snapshot.
func (p *prepared) checkVersions() {
	want, from := minor(p.snapshot.GetManifest().GetEtcdVersion()), "the snapshot's"
	if want == "" {
		want = minor(p.snapshot.GetManifest().GetStorageVersion())
	}
	same := true
	for _, node := range p.spec.GetNodes() {
		have := versionOn(p.facts[node])
		switch {
		case have == "":
			same = false
			p.warn("version", node, "the version of its etcd is not known", "make sure that it is the one the snapshot was taken with")
			continue
		case want == "":
			want, from = minor(have), "that of other nodes"
		}
		if minor(have) == want {
			continue
		}
		same = false
		text := fmt.Sprintf("its etcd is %s, %s is %s", have, from, want)
		if p.spec.GetAllowVersionMismatch() {
			p.warn("version", node, text, "allowed on request")
		} else {
			p.fail("version", node, text, "install etcd "+want+" there; to restore across minor versions all the same: --allow-version-mismatch")
		}
	}
	if same && want != "" {
		p.pass("version", "etcd %s on all, as the snapshot", want)
	}
}

// minor returns the "3.6" of "3.6.5".
func minor(version string) string {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return ""
	}
	return parts[0] + "." + parts[1]
}

// checkLeftOut refuses when members that are left out could form a quorum of the old cluster by themselves.
func (p *prepared) checkLeftOut() {
	voters, left := p.voters(), p.votersLeft()
	if voters == 0 || left <= 0 {
		return
	}
	who := strings.Join(p.leftOut(), ", ")
	if who == "" {
		who = "members that are on no node of requorum"
	}
	text := fmt.Sprintf("%d of the old cluster's %d voting members are left out: %s", left, voters, who)
	switch {
	case left < voters/2+1:
		p.warn("left out", "", text, "they cannot serve by themselves; they are fenced until they are re-seeded")
	case p.spec.GetLeftOutDestroyed() && p.leftOutServing != "":
		p.fail("left out", p.leftOutServing, text+"; its member serves, so it is not destroyed", "take it into the restore (--nodes), or stop etcd and the agent there for good")
	case p.spec.GetLeftOutDestroyed():
		p.warn("left out", "", text, "stated to be destroyed")
	default:
		p.fail("left out", "", text+"; they could go on as the old cluster", "if they are destroyed for good, say so with --left-out-destroyed")
	}
}

// voters returns how many voting members the old cluster has: as it lists them, as they were last seen,
// or as many as there are nodes.
func (p *prepared) voters() int {
	n := 0
	for _, m := range p.members {
		if !m.GetLearner() {
			n++
		}
	}
	switch {
	case n > 0:
		return n
	case p.cluster.GetVoters() > 0:
		return int(p.cluster.GetVoters())
	}
	return len(p.enrolled)
}

// votersLeft counts the voting members of the old cluster that do not take part. Where it still lists its
// members, only those count as taking part: a new node makes up for none of them.
func (p *prepared) votersLeft() int {
	if len(p.members) == 0 {
		return p.voters() - p.votersAmong()
	}
	left := p.voters()
	for _, node := range p.spec.GetNodes() {
		if listed := find(p.members, p.facts[node].GetMember()); listed != nil && !listed.GetLearner() {
			left--
		}
	}
	return left
}

// votersAmong counts the voting members on the nodes that take part.
func (p *prepared) votersAmong() int {
	n := 0
	for _, node := range p.nodes {
		if !node.GetLearner() {
			n++
		}
	}
	return n
}

// checkRevision chooses by how much the revision is raised, unless that was asked for: so much that it
// passes every revision that clients may have seen, however often the cluster was restored before.
func (p *prepared) checkRevision() {
	from := p.snapshot.GetManifest().GetRevision()
	switch {
	case p.spec.GetNoBump():
		p.warn("revision", "", "the revision goes back to that of the snapshot", "clients that watch may not notice that data changed; leave out --no-bump")
	case p.spec.GetBumpRevision() == 0 && from+defaultBump >= p.highest+bumpMargin:
		p.spec.BumpRevision = defaultBump
	case p.spec.GetBumpRevision() == 0:
		p.spec.BumpRevision = uint64(p.highest - from + defaultBump)
	case from+int64(p.spec.GetBumpRevision()) <= p.highest:
		p.fail("revision", "", fmt.Sprintf("raised by %d the revision would be %d, and clients have seen %d", p.spec.GetBumpRevision(), from+int64(p.spec.GetBumpRevision()), p.highest),
			fmt.Sprintf("leave out --bump-revision, or give more than %d", p.highest-from))
	}
}

// checkLoss tells what a restore throws away.
func (p *prepared) checkLoss() {
	live := p.liveRevision()
	switch {
	case live == 0:
		p.warn("newer data", "", "no member serves, so it cannot be told", "the safety snapshot is taken of the old data once the restore is done")
	case live > p.snapshot.GetManifest().GetRevision():
		p.warn("newer data", "", fmt.Sprintf("the cluster is at revision %d, the snapshot at %d: what is newer will be gone", live, p.snapshot.GetManifest().GetRevision()), "it is kept in a safety snapshot")
	default:
		p.pass("newer data", "nothing newer than the snapshot is lost")
	}
	if p.spec.GetSkipHashCheck() {
		p.warn("hashes", "", "hash checks are skipped on request", "a damaged file would be restored")
	}
}
