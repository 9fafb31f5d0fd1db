package k3s

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/runtime/etcdconf"
	"github.com/requorum/requorum/agent/runtime/systemd"
)

// Errors of a unit that has no etcd.
var (
	ErrNotServer = errors.New("it does not run as a server")
	ErrNoEtcd    = errors.New("it keeps no etcd, or never started")
)

// Distribution is k3s, or RKE2, which is built from it and differs in names.
type Distribution struct {
	Name    string // in lower case
	Prefix  string // of variables in its environment
	Config  string // its configuration file if it is not told
	DataDir string // its data directory if it is not told
}

// k3s itself.
var k3s = Distribution{Name: "k3s", Prefix: "K3S_", Config: "/etc/rancher/k3s/config.yaml", DataDir: "/var/lib/rancher/k3s"}

// EtcdDir is where etcd's data is below the distribution's data directory. Two files of k3s' own are there: name and config.
const EtcdDir = "server/db/etcd"

// Read returns the member of the server that c starts. It fails with ErrNotServer or ErrNoEtcd if there can be none.
func (d Distribution) Read(c systemd.Command) (runtime.Member, error) {
	i := slices.Index(c.Args, "server")
	if i < 0 {
		return runtime.Member{}, ErrNotServer
	}
	root, err := d.dataDir(systemd.Command{Args: c.Args[i+1:], Env: c.Env, Dir: c.Dir})
	if err != nil {
		return runtime.Member{}, err
	}
	return d.readMember(filepath.Join(root, EtcdDir))
}

// readMember returns the member whose data is in dir.
func (d Distribution) readMember(dir string) (runtime.Member, error) {
	path := filepath.Join(dir, "config")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return runtime.Member{}, fmt.Errorf("%w: %w; start %s as the first server of a cluster, or with --server to join others", ErrNoEtcd, err, d.Name)
	}
	if err != nil {
		return runtime.Member{}, err
	}
	m, err := etcdconf.Read(etcdconf.Source{
		Args: []string{"--config-file=" + path}, Dir: "/",
		ReadFile: func(string) ([]byte, error) { return data, nil },
	})
	if err != nil {
		return runtime.Member{}, err
	}
	name, err := os.ReadFile(filepath.Join(dir, "name"))
	if err != nil {
		return runtime.Member{}, fmt.Errorf("the member's name, without which %s chooses another: %w; write the one in %s there, without a line end", d.Name, err, path)
	}
	m.Name, m.DataDir = string(name), dir
	m.AdvertisePeerURLs, err = d.advertised(data, m)
	return m, err
}

// advertised returns the URLs at which peers reach the member. k3s writes them into the configuration only when it makes
// a new cluster. They are those of the URLs it listens on that are not on the loopback interface.
func (d Distribution) advertised(config []byte, m runtime.Member) ([]string, error) {
	var set struct {
		URLs string `yaml:"initial-advertise-peer-urls"`
	}
	if err := yaml.Unmarshal(config, &set); err != nil {
		return nil, err
	}
	if set.URLs != "" {
		return m.AdvertisePeerURLs, nil
	}
	urls := slices.DeleteFunc(slices.Clone(m.ListenPeerURLs), isLoopback)
	if len(urls) == 0 {
		return nil, fmt.Errorf("etcd's configuration in %s has no URL at which peers reach the member; restart %s, which writes it", m.DataDir, d.Name)
	}
	return urls, nil
}

func isLoopback(raw string) bool {
	u, err := url.Parse(raw)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

// dataDir returns the data directory that the distribution has with the server's arguments in c: that of the last --data-dir, else of
// its configuration files, else of the environment, else the default.
func (d Distribution) dataDir(c systemd.Command) (string, error) {
	dir := lastFlag(c.Args, "--data-dir", "-d")
	if dir == "" {
		var err error
		if dir, err = d.configured(c); err != nil {
			return "", fmt.Errorf("the configuration of %s: %w", d.Name, err)
		}
	}
	if dir == "" {
		dir = variable(c.Env, d.Prefix+"DATA_DIR")
	}
	if dir == "" {
		dir = d.DataDir
	}
	if !filepath.IsAbs(dir) {
		dir = filepath.Join("/", c.Dir, dir)
	}
	return dir, nil
}

// configured returns the data directory of the distribution's configuration file and, over it, of those in the directory beside it that
// is named for it and ends in .d, in the order of their names; empty if none has it.
func (d Distribution) configured(c systemd.Command) (string, error) {
	path := variable(c.Env, d.Prefix+"CONFIG_FILE")
	if path == "" {
		path = lastFlag(c.Args, "--config", "-c")
	}
	named := path != ""
	if !named {
		path = d.Config
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join("/", c.Dir, path)
	}
	entries, err := os.ReadDir(path + ".d")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	dir, err := dataDirIn(path)
	if err != nil && (named || !errors.Is(err, fs.ErrNotExist)) {
		return "", err
	}
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); ext != ".yaml" && ext != ".yml" {
			continue
		}
		over, err := dataDirIn(filepath.Join(path+".d", e.Name()))
		if err != nil {
			return "", err
		}
		if over != "" {
			dir = over
		}
	}
	return dir, nil
}

func dataDirIn(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var set struct {
		DataDir string `yaml:"data-dir"`
	}
	if err := yaml.Unmarshal(data, &set); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return set.DataDir, nil
}

// lastFlag returns the value of the last flag with one of these names, given as one argument or two; empty if there is
// none.
func lastFlag(args []string, names ...string) (value string) {
	for i, arg := range args {
		name, inline, ok := strings.Cut(arg, "=")
		switch {
		case !slices.Contains(names, name):
		case ok:
			value = inline
		case i+1 < len(args):
			value = args[i+1]
		}
	}
	return value
}

// variable returns the value of the last variable with this name; empty if there is none.
func variable(env []string, name string) (value string) {
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			value = v
		}
	}
	return value
}
