// Package detect finds out how etcd is run on a node. Every kind of runtime that can be found has a Detector in its own
// package; the agent asks them all, and Choose takes the one candidate there is.
package detect

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/requorum/requorum/agent/runtime"
)

// Detector looks for an etcd that is run in one way. It only reads: it starts, stops and writes nothing.
type Detector interface {
	// Kind is the runtime's name in the agent's configuration and what its Name returns, such as "systemd".
	Kind() string
	// Detect looks at the node. That there is nothing is no error, and nor is a node without what the runtime needs,
	// such as a Docker engine: Found.Looked says so then. An error means that it cannot be told what there is.
	Detect(ctx context.Context) (Found, error)
}

// Found is what one Detector saw.
type Found struct {
	// Candidates are the members that are run in this way, in a fixed order: one, as a rule, or none.
	Candidates []Candidate
	// Looked says, for people, where was looked and what was there, a sentence each: "no unit runs etcd".
	Looked []string
}

// Candidate is a member that the agent could be in charge of.
type Candidate struct {
	// Place names what runs etcd: a unit, a container, a manifest.
	Place string
	// Config chooses this candidate: it is what stands under runtime.<kind> in the agent's configuration, less what has
	// its default. It marshals to YAML and JSON.
	Config map[string]any
	// Member is what the runtime's Inspect returns. Where it cannot be read, it is empty and Missing says why.
	Member runtime.Member
	// ControlPlane names what the runtime would stop before etcd, in order.
	ControlPlane []string
	// Missing says what is not there and has to be, and what to do about it, a sentence each. An agent starts only
	// where it is empty.
	Missing []string
}

// Report is what the Detector of one kind saw. It is what people and programs are shown.
type Report struct {
	Kind string
	Found
	Err error // the detector could not tell
}

// All asks every detector, in their order.
func All(ctx context.Context, detectors []Detector) []Report {
	reports := make([]Report, len(detectors))
	for i, d := range detectors {
		found, err := d.Detect(ctx)
		reports[i] = Report{Kind: d.Kind(), Found: found, Err: err}
	}
	return reports
}

// Choice is the candidate that was chosen.
type Choice struct {
	Kind string
	Candidate
}

// Errors of Choose, which say what to do.
var (
	ErrNone      = errors.New("no etcd was found on this node")
	ErrAmbiguous = errors.New("more than one etcd was found on this node")
	ErrMissing   = errors.New("something is missing")
)

// Choose returns the only candidate. It fails with ErrNone, ErrAmbiguous or ErrMissing, or with what a detector failed
// with: what one could not look at may be what runs etcd.
func Choose(reports []Report) (Choice, error) {
	var choices []Choice
	var failed []error
	for _, r := range reports {
		if r.Err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", r.Kind, r.Err))
		}
		for _, c := range r.Candidates {
			choices = append(choices, Choice{Kind: r.Kind, Candidate: c})
		}
	}
	switch {
	case len(choices) > 1:
		return Choice{}, fmt.Errorf("%w: %s; say under \"runtime\" in the agent's configuration which one this agent is for", ErrAmbiguous, places(choices))
	case len(failed) > 0:
		return Choice{}, fmt.Errorf("it cannot be told how etcd is run on this node; say so under \"runtime\" in the agent's configuration: %w", errors.Join(failed...))
	case len(choices) == 0:
		return Choice{}, fmt.Errorf("%w; requorum agent detect shows where it was looked for; say under \"runtime\" in the agent's configuration how it is run", ErrNone)
	}
	chosen := choices[0]
	if len(chosen.Missing) > 0 {
		return Choice{}, fmt.Errorf("etcd is run by %s %s, but %w: %s", chosen.Kind, chosen.Place, ErrMissing, strings.Join(chosen.Missing, "; "))
	}
	return chosen, nil
}

func places(choices []Choice) string {
	var names []string
	for _, c := range choices {
		names = append(names, c.Kind+" "+c.Place)
	}
	return strings.Join(names, ", ")
}
