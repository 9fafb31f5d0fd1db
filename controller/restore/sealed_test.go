package restore

import (
	"strings"
	"testing"

	"github.com/requorum/requorum/controller/snapshot"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/seal/sealtest"
)

func TestAPlanOfSealedCopiesNeedsTheirKey(t *testing.T) {
	one, two, other := sealtest.NewKey(t), sealtest.NewKey(t), sealtest.NewKey(t)
	for name, c := range map[string]struct {
		identity, want string
	}{
		"none":            {want: "and no identity was given; give the key file"},
		"another's":       {identity: other.String(), want: "none of the identities given is for one of these recipients"},
		"not a key":       {identity: "x", want: "none of the identities given"},
		"the first one's": {identity: one.String()},
		"one of many":     {identity: other.String() + "\n" + two.String() + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRoom(t)
			r.manifest.Local = &requorumv1.StoredObject{Size: gib / 4, Recipients: []string{one.Recipient().String(), two.Recipient().String()}}
			r.open()
			plan, err := r.Plan(t.Context(), &requorumv1.PlanRestoreRequest{Spec: &requorumv1.RestoreSpec{Cluster: "prod", Snapshot: "s"}, Identity: c.identity})
			if err != nil {
				t.Fatal(err)
			}
			failed := strings.Join(rows(plan, requorumv1.CheckState_CHECK_STATE_FAILED), "\n")
			if c.want == "" && failed != "" || c.want != "" && (!strings.Contains(failed, c.want) || !strings.Contains(failed, two.Recipient().String())) {
				t.Errorf("refused with %q, want %q", failed, c.want)
			}
		})
	}
}

// A sealed copy is opened where snapshots are kept, at its plain size.
func TestSpaceToOpenSealedCopies(t *testing.T) {
	for free, refused := range map[uint64]bool{3*gib + snapshot.Headroom: false, 2 * gib: true} {
		r := newRoom(t)
		r.manifest.Size = 3 * gib
		r.manifest.Local = &requorumv1.StoredObject{Size: gib, ZstdLevel: 3}
		r.facts["b"].VaultFreeBytes = free
		plan := r.plan(&requorumv1.RestoreSpec{})
		failed := strings.Join(rows(plan, requorumv1.CheckState_CHECK_STATE_FAILED), "\n")
		if refused != strings.Contains(failed, "space b: 2.0 GiB free where snapshots are kept, 3.1 GiB needed") || !refused && failed != "" {
			t.Errorf("%d free: %q", free, failed)
		}
	}
}
