package snapshot

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/sealing"
	"github.com/requorum/requorum/internal/seal/sealtest"
)

// seals makes the nodes seal as they are told to.
func (d *desk) seals() (asked *[]*requorumv1.Sealing) {
	asked = new([]*requorumv1.Sealing)
	before := d.fleet.answer
	d.fleet.answer = func(node string, task *agentv1.Task) (*agentv1.TaskResult, error) {
		spec := task.GetSaveCopy()
		if spec == nil {
			if before != nil {
				return before(node, task)
			}
			return nil, nil
		}
		*asked = append(*asked, spec.GetSealing())
		result := d.fleet.do(node, task)
		if s := spec.GetSealing(); s != nil {
			result.GetCopy().Local = &requorumv1.StoredObject{Size: 60, Sha256: "sealed", ZstdLevel: s.GetZstdLevel(), Recipients: s.GetRecipients()}
			result.GetCopy().Inspected = &requorumv1.Manifest{Revision: 98, Keys: 5, HashKv: 42}
		}
		return result, nil
	}
	return asked
}

func TestHowASaveIsSealed(t *testing.T) {
	one, two := sealtest.NewKey(t).Recipient().String(), sealtest.NewKey(t).Recipient().String()
	level := 3
	for name, c := range map[string]struct {
		configured sealing.Config
		req        *requorumv1.SaveSnapshotRequest
		want       *requorumv1.Sealing
	}{
		"not at all":                    {req: &requorumv1.SaveSnapshotRequest{}},
		"as configured":                 {configured: sealing.Config{ZstdLevel: &level, Recipients: []string{one}}, req: &requorumv1.SaveSnapshotRequest{}, want: &requorumv1.Sealing{ZstdLevel: 3, Recipients: []string{one}}},
		"as asked for":                  {req: &requorumv1.SaveSnapshotRequest{LocalSealing: &requorumv1.Sealing{Recipients: []string{two}}}, want: &requorumv1.Sealing{Recipients: []string{two}}},
		"for others than configured":    {configured: sealing.Config{ZstdLevel: &level, Recipients: []string{one}}, req: &requorumv1.SaveSnapshotRequest{LocalSealing: &requorumv1.Sealing{Recipients: []string{two}}}, want: &requorumv1.Sealing{ZstdLevel: 3, Recipients: []string{two}}},
		"a level does not open it":      {configured: sealing.Config{Recipients: []string{one}}, req: &requorumv1.SaveSnapshotRequest{LocalSealing: &requorumv1.Sealing{ZstdLevel: 9}}, want: &requorumv1.Sealing{ZstdLevel: 9, Recipients: []string{one}}},
		"plain, whatever is configured": {configured: sealing.Config{Recipients: []string{one}}, req: &requorumv1.SaveSnapshotRequest{Plain: true}},
	} {
		t.Run(name, func(t *testing.T) {
			atDesk(t, func(d *desk) {
				d.LocalStorage = c.configured
				asked := d.seals()
				d.expect(d.saved(c.req), succeeded, "")
				if len(*asked) != 1 || !proto.Equal((*asked)[0], c.want) {
					t.Errorf("sealed as %v, want %v", *asked, c.want)
				}
				m := d.entry("s").GetManifest()
				if (m.GetLocal() != nil) != (c.want != nil) || m.GetSha256() != "sha" || m.GetRevision() != 98 {
					t.Errorf("%v", m)
				}
				if inspected := d.fleet.count("InspectCopy"); (inspected == 0) != (c.want != nil) {
					t.Errorf("the file was looked into %d times", inspected)
				}
			})
		})
	}
	atDesk(t, func(d *desk) {
		for _, req := range []*requorumv1.SaveSnapshotRequest{
			{Cluster: "prod", Name: "s", Plain: true, LocalSealing: &requorumv1.Sealing{ZstdLevel: 1}},
			{Cluster: "prod", Name: "s", LocalSealing: &requorumv1.Sealing{ZstdLevel: 20}},
			{Cluster: "prod", Name: "s", LocalSealing: &requorumv1.Sealing{Recipients: []string{"bob"}}},
		} {
			if _, err := d.Save(req, "alice"); !errors.As(err, new(*InvalidError)) {
				t.Errorf("%v: %v", req, err)
			}
		}
	})
}

// An agent that does not know how to seal leaves nothing in the clear.
func TestAnAgentThatCannotSeal(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.LocalStorage = sealing.Config{Recipients: []string{sealtest.NewKey(t).Recipient().String()}}
		d.expect(d.saved(&requorumv1.SaveSnapshotRequest{}), reverted, "its agent has not sealed the copy: it does not know how to|upgrade the agent")
		if left := d.fleet.holding("s"); left != "" {
			t.Errorf("left on %s", left)
		}
	})
}

func TestASealedSaveNeedsTwiceTheSpaceOnItsNode(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.seals()
		for _, f := range d.fleet.facts {
			f.VaultFreeBytes = Headroom + 3<<19 // the database has 1 MiB
		}
		d.expect(d.saved(&requorumv1.SaveSnapshotRequest{}), succeeded, "")
		d.expect(d.saved(&requorumv1.SaveSnapshotRequest{Name: "t", LocalSealing: &requorumv1.Sealing{ZstdLevel: 1}}), refused, "are free where snapshots are kept")
	})
}

// An encrypted copy goes to a remote as it is, or not at all.
func TestSealedCopiesAndRemotes(t *testing.T) {
	key := sealtest.NewKey(t).Recipient().String()
	withShop(t, func(d *desk, s *shop) {
		d.seals()
		d.expect(d.saved(&requorumv1.SaveSnapshotRequest{Remote: "off-site", LocalSealing: &requorumv1.Sealing{ZstdLevel: 7, Recipients: []string{key}}}), succeeded, "")
		o := d.entry("s").GetRemotes()[0].GetObject() // the remote has no recipients, and a level of its own
		if o.GetZstdLevel() != 7 || len(o.GetRecipients()) != 1 || !strings.HasSuffix(o.GetKey(), ".db.zst.age") {
			t.Errorf("%v", o)
		}
		d.expect(d.saved(&requorumv1.SaveSnapshotRequest{Name: "t", Remote: "off-site", LocalSealing: &requorumv1.Sealing{ZstdLevel: 7}}), succeeded, "")
		if o := d.entry("t").GetRemotes()[0].GetObject(); o.GetZstdLevel() != 3 {
			t.Errorf("what is only compressed is stored as %v", o)
		}
	})
}

func TestVerifyOfASealedCopyTakesItsKey(t *testing.T) {
	key, other := sealtest.NewKey(t), sealtest.NewKey(t)
	atDesk(t, func(d *desk) {
		d.ready("s", "a", "b", "c")
		m := d.entry("s").GetManifest()
		m.Local = &requorumv1.StoredObject{Size: 60, Sha256: "sealed", Recipients: []string{key.Recipient().String()}}
		must := d.Catalog.Update("prod", "s", func(s *requorumv1.Snapshot) { s.Manifest = m })
		if must != nil {
			t.Fatal(must)
		}
		given := ""
		d.fleet.answer = func(node string, task *agentv1.Task) (*agentv1.TaskResult, error) {
			if task.GetInspectNode() != nil {
				d.fleet.facts[node].ScratchFreeBytes = 1 << 30
			}
			given += task.GetDrillCopy().GetIdentity()
			return nil, nil
		}
		verify := func(identity string) *requorumv1.Operation {
			return d.ended(d.Verify(&requorumv1.VerifySnapshotRequest{Cluster: "prod", Name: "s", Identity: identity}, "alice"))
		}
		d.expect(verify(""), refused, "no identity was given")
		d.expect(verify(other.String()), refused, "none of the identities given is for one of these recipients")
		if given != "" || d.fleet.count("DrillCopy") != 0 {
			t.Errorf("a node was asked")
		}
		op := verify(key.String())
		d.expect(op, succeeded, "")
		if given != key.String() {
			t.Errorf("the node was given %q", given)
		}
		if d.Identities.Get(op.GetId()) != "" {
			t.Error("the identity was not forgotten")
		}
	})
}
