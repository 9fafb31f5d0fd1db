package e2e

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/internal/etcdfile"
)

var (
	flipSeed   = flag.Uint64("flip.seed", 0, "seed of the places where bits are flipped; 0 for another one each time")
	flipRounds = flag.Int("flip.rounds", 4, "how many bits are flipped in each kind of file, one at a time")
)

// damaged has any bit of a file turned over.
type damaged struct {
	path  string
	whole []byte // as it was
	at    int
	bit   byte
}

func (d damaged) String() string { return fmt.Sprintf("bit %#x of byte %d of %s", d.bit, d.at, d.path) }

func (d damaged) bytes() []byte {
	bad := bytes.Clone(d.whole)
	bad[d.at] ^= d.bit
	return bad
}

// flips is a source of bits to flip, the same for the same seed.
type flips struct{ *rand.Rand }

func newFlips(t *testing.T) flips {
	t.Helper()
	seed := *flipSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("run it again with -args -flip.seed %d", seed)
	return flips{rand.New(rand.NewPCG(seed, 1))}
}

// anywhere flips any bit of a file, if it is not in a page that was never written: most of a small database is those.
func (f flips) anywhere(t *testing.T, path string) damaged {
	t.Helper()
	const page = 4096
	for {
		d := f.choose(t, path)
		start := d.at - d.at%page
		if used := d.whole[start:min(start+page, len(d.whole))]; bytes.Count(used, []byte{0}) < len(used) {
			f.write(t, d)
			return d
		}
	}
}

// inValue flips a bit in a value that counts: etcd's HashKV of the file is another one, and nothing else tells.
func (f flips) inValue(t *testing.T, path string) damaged {
	t.Helper()
	before, err := hashOf(t, path)
	if err != nil {
		t.Fatal(err)
	}
	scratch, d := filepath.Join(t.TempDir(), "scratch.db"), f.choose(t, path)
	places := valuesIn(d.whole)
	f.Shuffle(len(places), func(i, j int) { places[i], places[j] = places[j], places[i] })
	for _, d.at = range places {
		if err := os.WriteFile(scratch, d.bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		if hash, err := hashOf(t, scratch); err == nil && hash != before { // not in a page that is free
			f.write(t, d)
			return d
		}
	}
	t.Fatalf("%s holds no value", path)
	return damaged{}
}

// valuesIn returns where values begin in a file, those in free pages included.
func valuesIn(whole []byte) (places []int) {
	value := []byte("value ")
	for at := 0; ; at++ {
		next := bytes.Index(whole[at:], value)
		if next < 0 {
			return places
		}
		at += next
		places = append(places, at)
	}
}

// choose takes any bit of a file.
func (f flips) choose(t *testing.T, path string) damaged {
	t.Helper()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return damaged{path: path, whole: whole, at: f.IntN(len(whole)), bit: 1 << f.IntN(8)}
}

func (f flips) write(t *testing.T, d damaged) {
	t.Helper()
	if err := os.WriteFile(d.path, d.bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Logf("flipped %s", d)
}

// node is one of the cluster's nodes.
func (f flips) node(c *harness.Cluster) string {
	return c.NodeNames()[f.IntN(len(c.Nodes))]
}

func hashOf(t *testing.T, path string) (uint32, error) {
	t.Helper()
	started, err := etcdfile.StartedHash(t.Context(), path, nil)
	return started.Hash, err
}

// A bit that turns over in a saved file, on the source or on a node that received it, makes a bad copy, which is named and
// healed from another node.
func TestBitFlipInACopy(t *testing.T) {
	t.Parallel()
	f, c := newFlips(t), harness.Start(t, harness.Options{})
	c.Write(100)
	saved := c.Now()
	source := save(t, c, "before").GetManifest().GetNode()
	received := slices.DeleteFunc(c.NodeNames(), func(n string) bool { return n == source })
	good, err := os.ReadFile(c.Copy(source, "before"))
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range []string{source, received[f.IntN(len(received))]} {
		for range *flipRounds {
			f.anywhere(t, c.Copy(node, "before"))
			says(t, c.Expect(3, "snapshot", "check", "before"), node, "different")
			c.Do("snapshot", "distribute", "before")
			c.Do("snapshot", "check", "before")
			sameFile(t, c, good)
		}
	}
	c.Write(50)
	f.anywhere(t, c.Copy(source, "before"))
	f.anywhere(t, c.Copy(received[0], "before"))
	restore(t, c, "before") // which heals what it finds
	holds(t, c, saved)
	sameFile(t, c, good)
	nothingLeft(t, c)
}

// A bit that turns over in a manifest hides nothing: it is noticed and written again, by a check and by a restore.
func TestBitFlipInAManifest(t *testing.T) {
	t.Parallel()
	f, c := newFlips(t), harness.Start(t, harness.Options{})
	c.Write(100)
	saved := c.Now()
	save(t, c, "before")
	for range *flipRounds {
		node := f.node(c)
		d := f.anywhere(t, filepath.Join(c.Vault(node), "before.json"))
		c.Do("snapshot", "check", "before")
		isWhole(t, d)
		logged(t, c.Node(node).Agent, "the manifest of a good copy cannot be read and is written again")
	}
	c.Write(50)
	d := f.anywhere(t, filepath.Join(c.Vault(f.node(c)), "before.json"))
	restore(t, c, "before")
	holds(t, c, saved)
	isWhole(t, d)
	nothingLeft(t, c)
}

func isWhole(t *testing.T, d damaged) {
	t.Helper()
	now, err := os.ReadFile(d.path)
	if err != nil || !bytes.Equal(now, d.whole) {
		t.Errorf("%s is not as it was: %v\n%s", d.path, err, now)
	}
}

// A bit that turns over in what is staged, before it goes live, is noticed before clients may write, and all is put back; or
// it meant nothing, and the cluster holds just what was saved.
func TestBitFlipInAStagedDatabase(t *testing.T) {
	t.Parallel()
	f, c := newFlips(t), harness.Start(t, harness.Options{})
	c.Write(100)
	saved := c.Now()
	save(t, c, "before")
	for i := range *flipRounds {
		c.Write(20)
		now := c.Now()
		id, _ := serving(t, c)
		op := restoreFlipped(t, c, func(staged string) {
			if i%2 == 0 {
				f.inValue(t, staged)
			} else {
				f.anywhere(t, staged)
			}
		}, f.node(c))
		t.Logf("round %d: %s %s", i, op.GetState(), op.GetFailure().GetMessage())
		switch op.GetState() {
		case requorumv1.OperationState_OPERATION_STATE_REVERTED:
			untouched(t, c, id, now)
		case requorumv1.OperationState_OPERATION_STATE_SUCCEEDED:
			holds(t, c, saved)
			nothingLeft(t, c)
			if i%2 == 0 {
				t.Error("a value was another one, and nothing was put back")
			}
		default:
			t.Errorf("the restore: %s", format(op))
		}
	}
}

// restoreFlipped restores, holds on while the old cluster still serves and what is to go live lies beside it, and goes on when
// that was damaged on one node.
func restoreFlipped(t *testing.T, c *harness.Cluster, damage func(staged string), node string) *requorumv1.Operation {
	t.Helper()
	const point = "controller/restore/stop/before-intent"
	c.Arm(point, "controller", "hang once")
	id := detached(t, c, "before")
	c.WaitFired(point, "controller")
	damage(filepath.Join(c.Node(node).DataDir+".staging-"+id, "member", "snap", "db"))
	if !c.Fired(point, "controller") { // which lets it go on
		t.Errorf("%s was not passed", point)
	}
	return c.Settle()
}

// A bit that turns over in the database of a member keeps it out of every snapshot: saving is refused or taken back, or what
// is saved is what was written.
func TestBitFlipInALiveDatabase(t *testing.T) {
	t.Parallel()
	f, c := newFlips(t), harness.Start(t, harness.Options{})
	c.Write(100)
	saved := c.Now()
	save(t, c, "before")
	for i := range *flipRounds {
		c.Write(20)
		now, node, name := c.Now(), f.node(c), fmt.Sprint("after-", i)
		flipLive(t, c, node, func(db string) damaged {
			if i%2 == 0 {
				return f.inValue(t, db)
			}
			return f.anywhere(t, db)
		})
		comes := comesBack(t, c, node)
		led := comes && leads(t, c, node) // which is not asked for its HashKV, and not saved from
		r := c.CLI("snapshot", "save", "--name", name)
		t.Logf("round %d: serves %v, save ended with %d: %s", i, comes, r.Code, strings.TrimSpace(r.Stderr))
		if r.Code != 0 {
			notReady(t, c, name)
		} else {
			if i%2 == 0 && !led {
				serving(t, c) // with the same HashKV everywhere: what was flipped is not there any more
			}
			restore(t, c, name)
			holds(t, c, now)
		}
		restore(t, c, "before") // every member starts anew from a good file
		holds(t, c, saved)
		nothingLeft(t, c)
	}
}

// flipLive damages the database of a member while it is down, and starts it again.
func flipLive(t *testing.T, c *harness.Cluster, node string, damage func(db string) damaged) {
	t.Helper()
	kill(t, c.Node(node).Agent) // which would start it again
	c.KillEtcd(node)
	if err := c.Until("etcd does not end", func() bool { return !c.EtcdRuns(node) }); err != nil {
		t.Fatal(err)
	}
	damage(filepath.Join(c.Node(node).DataDir, "member", "snap", "db"))
	c.StartAgain(node)
}

// comesBack tells whether a member serves again. One that is damaged may never do.
func comesBack(t *testing.T, c *harness.Cluster, node string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		one, end := context.WithTimeout(ctx, time.Second)
		_, err := c.Client(node).Get(one, "any")
		end()
		if err == nil {
			return true
		}
	}
	return false
}

func leads(t *testing.T, c *harness.Cluster, node string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	st, err := c.Client(node).Status(ctx, c.Endpoint(node))
	must(t, err)
	return st.Leader == st.Header.GetMemberId()
}

// notReady makes sure that nobody is shown a snapshot that could not be saved.
func notReady(t *testing.T, c *harness.Cluster, name string) {
	t.Helper()
	var resp requorumv1.ListSnapshotsResponse
	if r := c.JSON(&resp, "snapshot", "ls"); r.Code != 0 {
		t.Fatal(r)
	}
	for _, s := range resp.GetSnapshots() {
		if s.GetName() == name && s.GetState() == requorumv1.SnapshotState_SNAPSHOT_STATE_READY {
			t.Errorf("%s could not be saved, and is listed as ready", name)
		}
	}
}
