package restore

import (
	"testing"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// The revision never goes back behind what clients may have seen, unless a person asks for just that.
func TestRevisionIsRaisedAboveAllThatWasSeen(t *testing.T) {
	for _, tc := range []struct {
		name          string
		from, highest int64
		spec          *requorumv1.RestoreSpec
		bump          uint64
		state         requorumv1.CheckState
	}{
		{"first restore", 100, 5000, &requorumv1.RestoreSpec{}, defaultBump, 0},
		{"nobody knows what was seen", 100, 0, &requorumv1.RestoreSpec{}, defaultBump, 0},
		{"second restore of an old snapshot", 100, defaultBump + 5000, &requorumv1.RestoreSpec{}, 2*defaultBump + 4900, 0},
		{"little room for writes until the stop", 100, defaultBump, &requorumv1.RestoreSpec{}, 2*defaultBump - 100, 0},
		{"asked for enough", 100, 5000, &requorumv1.RestoreSpec{BumpRevision: 4901}, 4901, 0},
		{"asked for too little", 100, 5000, &requorumv1.RestoreSpec{BumpRevision: 4900}, 4900, requorumv1.CheckState_CHECK_STATE_FAILED},
		{"asked for none", 100, 5000, &requorumv1.RestoreSpec{NoBump: true}, 0, requorumv1.CheckState_CHECK_STATE_WARNING},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := &prepared{spec: tc.spec, highest: tc.highest, snapshot: &requorumv1.Snapshot{Manifest: &requorumv1.Manifest{Revision: tc.from}}}
			p.checkRevision()
			if p.spec.GetBumpRevision() != tc.bump {
				t.Errorf("the bump is %d, want %d", p.spec.GetBumpRevision(), tc.bump)
			}
			var state requorumv1.CheckState
			for _, c := range p.checks {
				state = max(state, c.GetState())
			}
			if state != tc.state {
				t.Errorf("the check is %s, want %s: %v", state, tc.state, p.checks)
			}
		})
	}
}

// A member that lost its disk and began anew is still the voter that it was; a new one is not.
func TestWipedMemberTakesPart(t *testing.T) {
	listed := []*requorumv1.ListedMember{
		{Id: "1", Name: "a", PeerUrls: []string{"http://a:2380"}}, {Id: "2", Name: "b", PeerUrls: []string{"http://b:2380"}},
	}
	for _, tc := range []struct {
		member *requorumv1.Member
		want   string
	}{
		{&requorumv1.Member{Id: "2", Name: "renamed", PeerUrls: []string{"http://elsewhere:2380"}}, "2"},
		{&requorumv1.Member{Id: "77", Name: "b", PeerUrls: []string{"http://b:2380"}}, "2"},
		{&requorumv1.Member{Name: "b", PeerUrls: []string{"http://b:2380"}}, "2"},
		{&requorumv1.Member{Id: "77", Name: "b", PeerUrls: []string{"http://new:2380"}}, ""},
		{&requorumv1.Member{Id: "77", Name: "c", PeerUrls: []string{"http://b:2380"}}, ""},
	} {
		if got := find(listed, tc.member).GetId(); got != tc.want {
			t.Errorf("%v is taken for member %q, want %q", tc.member, got, tc.want)
		}
	}
}
