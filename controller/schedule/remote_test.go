package schedule

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/remote"
)

// places says how many snapshots the nodes and the remote hold.
func (d *desk) places() (onNodes, inRemote int) {
	for _, s := range d.ready("prod") {
		if len(s.GetCopies()) > 0 {
			onNodes++
		}
		if len(s.GetRemotes()) > 0 {
			inRemote++
		}
	}
	return onNodes, inRemote
}

func (d *desk) setDown(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.down = err
}

func storing(local, stored uint32) *requorumv1.Schedule {
	return &requorumv1.Schedule{
		Every: durationpb.New(time.Hour), LocalStorage: &requorumv1.Retention{Last: local},
		RemoteStorage: &requorumv1.RemoteStorage{Remote: "off-site", Retention: &requorumv1.Retention{Last: stored}},
	}
}

// What the remote keeps longer than the nodes stays there alone, and what neither keeps is gone.
func TestNodesAndRemoteKeepEachTheirOwn(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.apply(storing(2, 4))
		d.pass(6*time.Hour + time.Minute) // 7 runs
		if onNodes, inRemote := d.places(); onNodes != 2 || inRemote != 4 || len(d.ready("prod")) != 4 {
			t.Errorf("the nodes hold %d, the remote %d, the catalog %d; want 2, 4, 4", onNodes, inRemote, len(d.ready("prod")))
		}
		gone := d.gone()
		fromNodes := slices.DeleteFunc(slices.Clone(gone), func(s string) bool { return !strings.HasSuffix(s, " from the nodes") })
		if len(fromNodes) != 5 || len(gone) != 8 {
			t.Errorf("removed %q, want five from the nodes first and three for good", gone)
		}
	})
}

// While the remote is away the nodes keep what it is to have; when it is back it gets that, and all is as if it had never
// been away.
func TestARemoteThatIsAwayGetsWhatItMissed(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.setDown(errors.New("the bucket is on fire"))
		d.apply(storing(1, 3))
		d.pass(5*time.Hour + time.Minute) // 6 runs
		if onNodes, inRemote := d.places(); onNodes != 3 || inRemote != 0 {
			t.Errorf("while it is away the nodes hold %d, want the 3 that it is to have; it holds %d", onNodes, inRemote)
		}
		d.setDown(nil)
		d.pass(longestStore)
		if onNodes, inRemote := d.places(); onNodes != 1 || inRemote != 3 || len(d.ready("prod")) != 3 {
			t.Errorf("when it is back the nodes hold %d and it %d, want 1 and 3", onNodes, inRemote)
		}
	})
}

// A removal in the remote whose answer is lost for good is ended by the next one.
func TestARemovalWhoseAnswerIsLost(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.apply(storing(1, 2))
		d.pass(time.Hour + firstAgain/2) // 2 runs
		d.mu.Lock()
		d.lost = errors.New("the agent is gone")
		d.mu.Unlock()
		d.pass(time.Hour)
		if n := len(d.ready("prod")); n != 3 {
			t.Errorf("the removal has not broken off: the catalog holds %d, want 3", n)
		}
		d.pass(firstAgain + sweepEvery)
		if onNodes, inRemote := d.places(); onNodes != 1 || inRemote != 2 || len(d.ready("prod")) != 2 {
			t.Errorf("the nodes hold %d, the remote %d, the catalog %d; want 1, 2, 2", onNodes, inRemote, len(d.ready("prod")))
		}
	})
}

// A schedule that is paused stores nothing, and one of an unknown remote is refused.
func TestWhatIsNotStored(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.setDown(errors.New("the bucket is on fire"))
		d.apply(storing(1, 3))
		d.pass(time.Minute)
		if _, err := d.SetPaused("nightly", true, "alice"); err != nil {
			t.Fatal(err)
		}
		d.setDown(nil)
		d.pass(time.Hour)
		if _, inRemote := d.places(); inRemote != 0 {
			t.Error("a paused schedule has stored a snapshot")
		}
		typo := storing(1, 1)
		typo.Name, typo.Cluster, typo.RemoteStorage.Remote = "other", "prod", "offsite"
		if _, _, err := d.Apply(typo, "alice"); !errors.As(err, new(*remote.UnknownError)) {
			t.Errorf("%v", err)
		}
	})
}
