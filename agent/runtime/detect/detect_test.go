package detect_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/requorum/requorum/agent/runtime/detect"
)

// detector answers what it is told to.
type detector struct {
	kind  string
	found detect.Found
	err   error
}

func (d detector) Kind() string                                 { return d.kind }
func (d detector) Detect(context.Context) (detect.Found, error) { return d.found, d.err }

func finds(kind string, places ...string) detector {
	d := detector{kind: kind}
	for _, p := range places {
		d.found.Candidates = append(d.found.Candidates, detect.Candidate{Place: p})
	}
	return d
}

func TestChooseTakesTheOnlyCandidate(t *testing.T) {
	incomplete := finds("systemd", "etcd.service")
	incomplete.found.Candidates[0].Missing = []string{"/usr/bin/etcd is not there; install etcd"}
	broken := errors.New("the engine does not answer")
	for name, test := range map[string]struct {
		detectors []detect.Detector
		want      string // kind and place
		err       error
		says      []string
	}{
		"one":               {detectors: []detect.Detector{finds("docker"), finds("systemd", "etcd.service")}, want: "systemd etcd.service"},
		"none":              {detectors: []detect.Detector{finds("docker"), finds("systemd")}, err: detect.ErrNone, says: []string{"requorum agent detect"}},
		"two of one kind":   {detectors: []detect.Detector{finds("systemd", "etcd.service", "etcd-events.service")}, err: detect.ErrAmbiguous, says: []string{"systemd etcd.service, systemd etcd-events.service"}},
		"two kinds":         {detectors: []detect.Detector{finds("docker", "etcd"), finds("systemd", "etcd.service")}, err: detect.ErrAmbiguous, says: []string{"docker etcd, systemd etcd.service"}},
		"one that lacks":    {detectors: []detect.Detector{incomplete}, err: detect.ErrMissing, says: []string{"systemd etcd.service", "install etcd"}},
		"one beside unseen": {detectors: []detect.Detector{finds("systemd", "etcd.service"), detector{kind: "docker", err: broken}}, err: broken, says: []string{"docker: "}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := detect.Choose(detect.All(t.Context(), test.detectors))
			if !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
				t.Fatalf("error %v, expected %v", err, test.err)
			}
			for _, s := range test.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%q does not say %q", err, s)
				}
			}
			if err == nil && got.Kind+" "+got.Place != test.want {
				t.Errorf("chose %s %s, expected %s", got.Kind, got.Place, test.want)
			}
		})
	}
}
