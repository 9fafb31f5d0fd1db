// Package remote knows the object stores of the controller's configuration: how nodes reach them, and what is where in
// them. The controller itself talks to none; secrets go to a node with a task, and nowhere else.
package remote

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/failure"
	"github.com/requorum/requorum/controller/sealing"
	"github.com/requorum/requorum/internal/names"
	"github.com/requorum/requorum/internal/seal"
)

// Remotes are the remotes of a configuration. The zero value has none.
type Remotes struct{ all []*Remote }

// Remote is one of them.
type Remote struct{ cfg Config }

// New returns the remotes, or what is wrong with them.
func New(cfgs []Config) (*Remotes, error) {
	r, taken := &Remotes{}, map[string]bool{}
	for i, cfg := range cfgs {
		err := cfg.check()
		if err == nil && taken[cfg.Name] {
			err = errors.New("the name is taken")
		}
		if err != nil {
			return nil, fmt.Errorf("remotes: %s (number %d): %w", cfg.Name, i+1, err)
		}
		taken[cfg.Name] = true
		r.all = append(r.all, &Remote{cfg})
	}
	return r, nil
}

// UnknownError says that there is no such remote.
type UnknownError struct{ Message string }

func (e *UnknownError) Error() string { return e.Message }

// Get returns a remote by name, or an *UnknownError.
func (r *Remotes) Get(name string) (*Remote, error) {
	for _, known := range r.list() {
		if known.cfg.Name == name {
			return known, nil
		}
	}
	return nil, r.unknown("remote %q is not in the controller's configuration", name)
}

// All returns the remotes in the order of the configuration.
func (r *Remotes) All() []*Remote { return r.list() }

func (r *Remotes) list() []*Remote {
	if r == nil {
		return nil
	}
	return r.all
}

func (r *Remotes) unknown(format string, args ...any) error {
	known := make([]string, len(r.list()))
	for i, k := range r.list() {
		known[i] = k.cfg.Name
	}
	text := fmt.Sprintf(format, args...)
	if len(known) == 0 {
		return &UnknownError{text + "; it has none (remotes:)"}
	}
	return &UnknownError{text + "; it has " + strings.Join(known, ", ")}
}

// Describe returns what people may know of the remotes.
func (r *Remotes) Describe() ([]*requorumv1.Remote, error) {
	var all []*requorumv1.Remote
	for _, k := range r.list() {
		o, err := k.cfg.seal()
		if err != nil {
			return nil, k.broken(err)
		}
		all = append(all, &requorumv1.Remote{
			Name: k.cfg.Name, Kind: k.cfg.Kind, Where: k.cfg.where(), Folder: k.cfg.Folder, ZstdLevel: int32(o.Level), Recipients: o.Recipients,
		})
	}
	return all, nil
}

// Name returns the remote's name.
func (r *Remote) Name() string { return r.cfg.Name }

func (r *Remote) broken(err error) error {
	return &failure.Error{Message: fmt.Sprintf("remote %s cannot be used: %v", r.cfg.Name, err), Advice: "mend that in the controller's configuration, or the file it names", Cause: err}
}

// Access returns what a node needs to reach the remote. It holds secrets: it is for a task, and for nothing that is kept.
func (r *Remote) Access(ctx context.Context) (*agentv1.Remote, error) {
	access := &agentv1.Remote{Name: r.cfg.Name}
	if r.cfg.Kind == kindDir {
		access.Kind = &agentv1.Remote_Dir{Dir: &agentv1.DirRemote{Path: r.cfg.Dir.Path}}
		return access, nil
	}
	bucket, err := r.cfg.S3.access(ctx)
	if err != nil {
		return nil, r.broken(err)
	}
	access.Kind = &agentv1.Remote_S3{S3: bucket}
	return access, nil
}

// Folder returns what the keys of a cluster's objects begin with, less the slash.
func (r *Remote) Folder(cluster string) string { return path.Join(r.cfg.Folder, cluster) }

// Owns tells whether a key is in a cluster's folder.
func (r *Remote) Owns(cluster, key string) bool { return path.Dir(key) == r.Folder(cluster) }

const (
	digits      = 8 // of the file's SHA-256 in its key
	fileSuffix  = ".db"
	filesSuffix = ".files"
)

// Takes refuses copies that are encrypted on the nodes, where nobody can open them, for others than the remote's recipients.
// A remote without recipients takes them as they are.
func (r *Remote) Takes(recipients []string) error {
	_, err := r.sealingOf(&requorumv1.StoredObject{Recipients: recipients})
	return err
}

// sealingOf returns how a file is stored that nodes hold as local says.
func (r *Remote) sealingOf(local *requorumv1.StoredObject) (seal.Options, error) {
	o, err := r.cfg.seal()
	switch {
	case err != nil:
		return o, r.broken(err)
	case len(local.GetRecipients()) == 0:
		return o, nil
	case len(o.Recipients) > 0 && !sealing.Same(o.Recipients, local.GetRecipients()):
		return o, &failure.Error{
			Message: fmt.Sprintf("the copies on the nodes are encrypted for %s, those in remote %s are to be for %s, and nobody here can open them", sealing.Names(local.GetRecipients()), r.cfg.Name, sealing.Names(o.Recipients)),
			Advice:  "use the same recipients for both (local_storage: and remotes: in the controller's configuration, or --encrypt-to), or none for the remote, which then stores the files of the nodes as they are",
		}
	}
	return seal.OptionsOf(local), nil
}

// Object returns the object that a snapshot's file is to be stored as. An encrypted file is stored as it is on the nodes.
func (r *Remote) Object(cluster string, m *requorumv1.Manifest) (*requorumv1.StoredObject, error) {
	o, err := r.sealingOf(m.GetLocal())
	if err != nil {
		return nil, err
	}
	key := path.Join(r.Folder(cluster), m.GetName()+"-"+m.GetSha256()[:min(digits, len(m.GetSha256()))]+fileSuffix+o.Suffix())
	return &requorumv1.StoredObject{Key: key, ZstdLevel: int32(o.Level), Recipients: o.Recipients}, nil
}

// Bundles returns the bundles of a snapshot with the objects that they are to be stored as, beside that of its file and as
// that is.
func (r *Remote) Bundles(file *requorumv1.StoredObject, m *requorumv1.Manifest) []*requorumv1.Bundle {
	sealed := seal.OptionsOf(file).Suffix()
	base := strings.TrimSuffix(file.GetKey(), fileSuffix+sealed)
	var all []*requorumv1.Bundle
	for _, b := range m.GetBundles() {
		b = proto.CloneOf(b)
		b.Stored = &requorumv1.StoredObject{Key: base + "." + b.GetNode() + filesSuffix + sealed, ZstdLevel: file.GetZstdLevel(), Recipients: file.GetRecipients()}
		if l := b.GetLocal(); l != nil { // it is stored as it is
			b.Stored = &requorumv1.StoredObject{Key: base + "." + b.GetNode() + filesSuffix + seal.Options{Recipients: l.GetRecipients()}.Suffix(), Recipients: l.GetRecipients()}
		}
		all = append(all, b)
	}
	return all
}

// From is a snapshot in a remote.
type From struct {
	Remote  *Remote
	Cluster string
	Name    string // may be "latest"
}

// String returns it as REMOTE:CLUSTER/NAME.
func (f From) String() string { return f.Remote.cfg.Name + ":" + f.Cluster + "/" + f.Name }

// Parse reads REMOTE:NAME, REMOTE:CLUSTER/NAME or s3://BUCKET/FOLDER/CLUSTER/NAME, where BUCKET is that of a remote or a
// remote's name. cluster is whose a NAME alone is. It fails with an *UnknownError, or with why the text cannot be meant.
func (r *Remotes) Parse(text, cluster string) (From, error) {
	var (
		f     From
		where string
		err   error
	)
	if rest, found := strings.CutPrefix(text, "s3://"); found {
		bucket, key, _ := strings.Cut(rest, "/")
		f.Remote, where, err = r.byBucket(bucket, key)
	} else {
		name, rest, found := strings.Cut(text, ":")
		if !found {
			return f, fmt.Errorf("%q is not REMOTE:NAME, REMOTE:CLUSTER/NAME or s3://BUCKET/FOLDER/CLUSTER/NAME", text)
		}
		where = rest
		f.Remote, err = r.Get(name)
	}
	if err != nil {
		return f, err
	}
	f.Cluster, f.Name = cluster, where
	if dir, name, found := strings.Cut(where, "/"); found {
		f.Cluster, f.Name = dir, name
	}
	f.Name = strings.TrimSuffix(f.Name, ".json")
	return f, errors.Join(names.Check("cluster", f.Cluster), names.Check("snapshot", f.Name))
}

// byBucket finds a remote by its name or bucket, and what of key is behind its folder.
func (r *Remotes) byBucket(bucket, key string) (found *Remote, where string, err error) {
	for _, k := range r.list() {
		rest, inFolder := strings.CutPrefix(key, k.cfg.Folder+"/")
		switch {
		case k.cfg.Kind == kindS3 && k.cfg.S3.Bucket == bucket && k.cfg.Folder == "":
			return k, key, nil
		case k.cfg.Kind == kindS3 && k.cfg.S3.Bucket == bucket && inFolder:
			return k, rest, nil
		case k.cfg.Name == bucket && inFolder && k.cfg.Folder != "":
			return k, rest, nil
		case k.cfg.Name == bucket:
			return k, key, nil
		}
	}
	return nil, "", r.unknown("no remote in the controller's configuration is the bucket %s with a folder of %s", bucket, key)
}
