package staticpod

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/requorum/requorum/internal/durable"
)

// The files of a manifest. The kubelet reads every file of its directory whose name does not begin with a dot, so nothing
// but finished manifests may get there.
//
// "aside" is where a manifest goes first when it leaves the kubelet's directory: what it is can be looked at there without
// somebody changing it meanwhile. settle decides.

func (r *Runtime) live(name string) string  { return filepath.Join(filepath.Dir(r.o.Manifest), name) }
func (r *Runtime) held(name string) string  { return filepath.Join(r.o.HeldDir, name) }
func (r *Runtime) aside(name string) string { return r.held(name) + ".aside" }

// state is what the places of the manifests do not tell.
type state struct {
	Started string `json:"started,omitempty"` // ID of the container that Start started
	Joining string `json:"joining,omitempty"` // SHA-256 of the manifest that StartJoining wrote
	Owed    bool   `json:"owed,omitempty"`    // the control plane was stopped and is not all up again
}

func (r *Runtime) stateFile() string { return filepath.Join(r.o.HeldDir, "state.json") }

func (r *Runtime) readState() (s state, err error) {
	_, err = durable.ReadJSON(r.stateFile(), &s)
	return s, err
}

// note changes the state.
func (r *Runtime) note(change func(*state)) error {
	s, err := r.readState()
	if err != nil {
		return err
	}
	before := s
	if change(&s); s == before {
		return nil
	}
	return r.step("note the state", func() error {
		if err := r.makeHeldDir(); err != nil {
			return err
		}
		return durable.WriteJSON(r.stateFile(), s)
	})
}

const readme = `requorum keeps manifests of static pods here while a restore has stopped them, or because this node missed one. Its agent
puts them back. Where requorum is gone for good, move them back by hand, etcd's first.
A file that ends in .superseded-TIME is one in whose place somebody else put another meanwhile. It is kept for you.
`

func (r *Runtime) makeHeldDir() error {
	if err := r.checkHeldDir(); err != nil {
		return err
	}
	if err := durable.MkdirAll(r.o.HeldDir, 0o700); err != nil {
		return err
	}
	path := r.held("README")
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return durable.WriteFile(path, []byte(readme), 0o600)
}

// read reads a manifest from wherever it is, and tells whether the kubelet sees it. It fails with ErrNoManifest.
func (r *Runtime) read(name string) (p *pod, live bool, err error) {
	r.files.Lock()
	defer r.files.Unlock()
	for _, path := range []string{r.live(name), r.aside(name), r.held(name)} {
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, false, err
		}
		p, err := parse(path, text)
		return p, path == r.live(name), err
	}
	return nil, false, fmt.Errorf("%s: %w", r.live(name), ErrNoManifest)
}

// hold takes a manifest away from the kubelet. One that is not there is passed over.
func (r *Runtime) hold(name string) error {
	r.files.Lock()
	defer r.files.Unlock()
	return r.takeAway(name)
}

func (r *Runtime) takeAway(name string) error {
	if err := r.settle(name); err != nil {
		return err
	}
	if there, err := exists(r.live(name)); err != nil || !there {
		return err
	}
	if err := r.makeHeldDir(); err != nil {
		return err
	}
	if err := r.move(r.live(name), r.aside(name)); err != nil {
		return err
	}
	return r.settle(name)
}

// settle decides what becomes of a manifest that was moved aside: as a rule it is the one that is kept. Where one is kept
// already, it is a joining member's, which the runtime wrote itself, or somebody else's: that one is kept then, as the
// newer, and the older one is left in the directory under another name.
func (r *Runtime) settle(name string) error {
	text, err := os.ReadFile(r.aside(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	kept, err := os.ReadFile(r.held(name))
	if errors.Is(err, fs.ErrNotExist) {
		return r.move(r.aside(name), r.held(name))
	}
	if err != nil {
		return err
	}
	ours, err := r.isOurs(text)
	if err != nil {
		return err
	}
	if ours || bytes.Equal(text, kept) {
		return r.step("remove "+r.aside(name), func() error { return durable.Remove(r.aside(name)) })
	}
	if err := r.supersede(name); err != nil {
		return err
	}
	return r.move(r.aside(name), r.held(name))
}

// isOurs tells whether a manifest is the one that StartJoining wrote.
func (r *Runtime) isOurs(text []byte) (bool, error) {
	s, err := r.readState()
	return s.Joining != "" && s.Joining == sum(text), err
}

func sum(text []byte) string {
	digest := sha256.Sum256(text)
	return hex.EncodeToString(digest[:])
}

// supersede puts the kept manifest out of use, for somebody has written another, and says so.
func (r *Runtime) supersede(name string) error {
	to := r.held(name) + ".superseded-" + time.Now().UTC().Format("20060102T150405.000000000")
	r.o.Log.Warn("somebody wrote a manifest while requorum kept the one of the pod away; the newer one is used, look at both",
		"manifest", r.live(name), "older", to)
	return r.move(r.held(name), to)
}

// release gives a kept manifest back to the kubelet. It fails with ErrNoManifest if there is none. One that somebody else
// wrote meanwhile is left, unless it is about another member: that is for a person to decide.
func (r *Runtime) release(name string) error {
	r.files.Lock()
	defer r.files.Unlock()
	if err := r.settle(name); err != nil {
		return err
	}
	live, liveErr := exists(r.live(name))
	held, heldErr := exists(r.held(name))
	if err := errors.Join(liveErr, heldErr); err != nil {
		return err
	}
	switch {
	case !live && !held:
		return fmt.Errorf("%s: %w", r.live(name), ErrNoManifest)
	case !held:
		return nil
	case live:
		return r.replaced(name)
	}
	return r.move(r.held(name), r.live(name))
}

// replaced is about a manifest that somebody wrote where the kubelet sees it while another is kept.
func (r *Runtime) replaced(name string) error {
	text, err := os.ReadFile(r.live(name))
	if err != nil {
		return err
	}
	kept, err := os.ReadFile(r.held(name))
	if err != nil {
		return err
	}
	if bytes.Equal(text, kept) {
		return r.step("remove "+r.held(name), func() error { return durable.Remove(r.held(name)) })
	}
	if name == r.etcd() {
		if err := r.checkSameMember(text, kept); err != nil {
			return err
		}
	}
	return r.supersede(name)
}

// checkSameMember refuses a manifest with which etcd would not run on the data that the agent looks after.
func (r *Runtime) checkSameMember(text, kept []byte) error {
	name := r.etcd()
	var dirs [2]string
	for i, m := range []struct {
		path string
		text []byte
	}{{r.live(name), text}, {r.held(name), kept}} {
		p, err := parse(m.path, m.text)
		if err != nil {
			return err
		}
		member, err := p.member(r.o.Version)
		if err != nil {
			return err
		}
		dirs[i] = fmt.Sprintf("member %s with its data in %s", member.Name, member.DataDir)
	}
	if dirs[0] == dirs[1] {
		return nil
	}
	return fmt.Errorf("somebody wrote %s while requorum kept etcd's manifest away, and it is for %s; the one in %s is for %s: remove the wrong one",
		r.live(name), dirs[0], r.held(name), dirs[1])
}

// move renames a manifest unless there is one at its new place, for good.
func (r *Runtime) move(from, to string) error {
	return r.step("move "+from+" to "+to, func() error {
		if err := durable.RenameNew(from, to); err != nil {
			return err
		}
		return errors.Join(durable.SyncDir(filepath.Dir(to)), durable.SyncDir(filepath.Dir(from)))
	})
}

func (r *Runtime) step(name string, do func() error) error {
	if err := r.fault(name); err != nil {
		return err
	}
	return do()
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
