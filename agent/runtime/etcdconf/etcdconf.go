// Package etcdconf reads an etcd member's configuration the way etcd does: from a configuration file if
// one is named, which excludes everything else, otherwise from command line flags over ETCD_ variables
// over etcd's defaults. It knows the settings that matter to a restore and passes over all others.
package etcdconf

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/requorum/requorum/agent/runtime"
)

// etcd's defaults.
const (
	DefaultName       = "default"
	DefaultClientURLs = "http://localhost:2379"
	DefaultPeerURLs   = "http://localhost:2380"
)

// Source is where a member's configuration comes from.
type Source struct {
	Args []string // etcd's arguments, without the name of the binary
	Env  []string // etcd's environment, as NAME=value
	Dir  string   // etcd's working directory, which relative paths begin in; empty for /

	// ReadFile reads the configuration file; nil for os.ReadFile. Where etcd runs in a container it
	// maps the path.
	ReadFile func(path string) ([]byte, error)
}

// Read returns the member's configuration. UID, GID, Version, Running and Wanted are left empty.
func Read(s Source) (runtime.Member, error) {
	flags, err := parseFlags(s.Args)
	if err != nil {
		return runtime.Member{}, err
	}
	set, err := s.settings(flags)
	if err != nil {
		return runtime.Member{}, err
	}
	return s.member(set)
}

// settings are etcd's settings by the names of their flags. file tells that they come from a
// configuration file.
type settings struct {
	values map[string]string
	file   bool
}

func (s Source) settings(flags map[string]string) (settings, error) {
	env := environment(s.Env)
	if path := first(flags["config-file"], env["config-file"]); path != "" {
		values, err := s.readFile(path)
		return settings{values: values, file: true}, err
	}
	for name, value := range flags {
		env[name] = value
	}
	return settings{values: env}, nil
}

// environment returns the ETCD_ variables under the names of their flags. etcd takes an empty variable
// as one that is not set, and the last of several.
func environment(env []string) map[string]string {
	values := map[string]string{}
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		if flag, ok := strings.CutPrefix(name, "ETCD_"); ok {
			flag = strings.ToLower(strings.ReplaceAll(flag, "_", "-"))
			values[flag] = value
		}
	}
	for flag, value := range values {
		if value == "" {
			delete(values, flag)
		}
	}
	return values
}

// parseFlags reads a command line as Go's flag package does, without knowing all flags: one without
// "=value" takes the next argument as its value unless that begins with a dash. Every flag that is
// boolean is followed by a flag or nothing, so this comes out right.
func parseFlags(args []string) (map[string]string, error) {
	values := map[string]string{}
	for i := 0; i < len(args); i++ {
		f, ok := parseFlag(args[i:])
		if args[i] == "--" {
			break
		}
		if !ok {
			return nil, fmt.Errorf("etcd's command line: %q is not a flag", args[i])
		}
		values[f.name] = f.value
		i += f.args - 1
	}
	return values, nil
}

// flag is one flag of a command line and the number of arguments that it takes up.
type flag struct {
	name, value string
	args        int
}

func parseFlag(args []string) (flag, bool) {
	name, ok := strings.CutPrefix(args[0], "-")
	name = strings.TrimPrefix(name, "-")
	if !ok || name == "" {
		return flag{}, false
	}
	if name, value, ok := strings.Cut(name, "="); ok {
		return flag{name: name, value: value, args: 1}, true
	}
	if len(args) > 1 && (!strings.HasPrefix(args[1], "-") || takesValue(name)) {
		return flag{name: name, value: args[1], args: 2}, true
	}
	return flag{name: name, value: "true", args: 1}, true
}

// takesValue tells of the settings read here which take a value that may begin with a dash.
func takesValue(name string) bool {
	return slices.Contains([]string{"quota-backend-bytes", "name", "data-dir", "wal-dir", "config-file"}, name)
}

// file has the keys of etcd's configuration file that are read here.
type file struct {
	Name                string `yaml:"name"`
	DataDir             string `yaml:"data-dir"`
	WALDir              string `yaml:"wal-dir"`
	ListenClientURLs    string `yaml:"listen-client-urls"`
	AdvertiseClientURLs string `yaml:"advertise-client-urls"`
	ListenPeerURLs      string `yaml:"listen-peer-urls"`
	AdvertisePeerURLs   string `yaml:"initial-advertise-peer-urls"`
	ListenMetricsURLs   string `yaml:"listen-metrics-urls"`
	ListenClientHTTP    string `yaml:"listen-client-http-urls"`
	QuotaBackendBytes   int64  `yaml:"quota-backend-bytes"`
	Client              struct {
		CertFile       string `yaml:"cert-file"`
		KeyFile        string `yaml:"key-file"`
		TrustedCAFile  string `yaml:"trusted-ca-file"`
		ClientCertAuth bool   `yaml:"client-cert-auth"`
		AutoTLS        bool   `yaml:"auto-tls"`
	} `yaml:"client-transport-security"`
}

// readFile returns the settings of a configuration file under the names of their flags.
func (s Source) readFile(path string) (map[string]string, error) {
	read := s.ReadFile
	if read == nil {
		read = os.ReadFile
	}
	data, err := read(s.absolute(path))
	if err != nil {
		return nil, fmt.Errorf("etcd's configuration file: %w", err)
	}
	var f file
	if err := yaml.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("etcd's configuration file %s: %w", path, err)
	}
	return map[string]string{
		"name":                        f.Name,
		"data-dir":                    f.DataDir,
		"wal-dir":                     f.WALDir,
		"listen-client-urls":          f.ListenClientURLs,
		"advertise-client-urls":       f.AdvertiseClientURLs,
		"listen-peer-urls":            f.ListenPeerURLs,
		"initial-advertise-peer-urls": f.AdvertisePeerURLs,
		"listen-metrics-urls":         f.ListenMetricsURLs,
		"listen-client-http-urls":     f.ListenClientHTTP,
		"quota-backend-bytes":         strconv.FormatInt(f.QuotaBackendBytes, 10),
		"cert-file":                   f.Client.CertFile,
		"key-file":                    f.Client.KeyFile,
		"trusted-ca-file":             f.Client.TrustedCAFile,
		"client-cert-auth":            strconv.FormatBool(f.Client.ClientCertAuth),
		"auto-tls":                    strconv.FormatBool(f.Client.AutoTLS),
	}, nil
}

func (s Source) member(set settings) (runtime.Member, error) {
	r := reader{values: set.values}
	m := runtime.Member{
		Name:                first(set.values["name"], DefaultName),
		ListenClientURLs:    r.urls("listen-client-urls", DefaultClientURLs),
		ListenPeerURLs:      r.urls("listen-peer-urls", DefaultPeerURLs),
		AdvertisePeerURLs:   r.urls("initial-advertise-peer-urls", DefaultPeerURLs),
		AdvertiseClientURLs: r.urls("advertise-client-urls", DefaultClientURLs),
		ListenOtherURLs:     append(r.urls("listen-metrics-urls", ""), r.urls("listen-client-http-urls", "")...),
		QuotaBytes:          r.integer("quota-backend-bytes"),
		ClientCertAuth:      r.boolean("client-cert-auth") || set.values["trusted-ca-file"] != "",
		ClientAutoTLS:       r.boolean("auto-tls"),
		TrustedCAFile:       s.absolute(set.values["trusted-ca-file"]),
		CertFile:            s.absolute(set.values["cert-file"]),
		KeyFile:             s.absolute(set.values["key-file"]),
		WALDir:              s.absolute(set.values["wal-dir"]),
	}
	m.DataDir = s.absolute(first(set.values["data-dir"], m.Name+".etcd"))
	if !set.file && set.values["listen-client-urls"] != "" && set.values["advertise-client-urls"] == "" {
		m.AdvertiseClientURLs = nil // etcd has no default then
	}
	return m, errors.Join(r.errs...)
}

// absolute returns a path as etcd sees it from its working directory; empty stays empty.
func (s Source) absolute(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join("/", s.Dir, path)
}

// reader converts settings and gathers what is wrong with them.
type reader struct {
	values map[string]string
	errs   []error
}

func (r *reader) urls(name, byDefault string) []string {
	list := first(r.values[name], byDefault)
	if list == "" {
		return nil
	}
	urls := strings.Split(list, ",")
	for i, raw := range urls {
		urls[i] = strings.TrimSpace(raw)
		if u, err := url.Parse(urls[i]); err != nil || u.Scheme == "" {
			r.errs = append(r.errs, fmt.Errorf("etcd's %s: %q is not a URL", name, raw))
		}
	}
	return urls
}

func (r *reader) integer(name string) int64 {
	if r.values[name] == "" {
		return 0
	}
	n, err := strconv.ParseInt(r.values[name], 0, 64)
	if err != nil {
		r.errs = append(r.errs, fmt.Errorf("etcd's %s: %q is not a number", name, r.values[name]))
	}
	return n
}

func (r *reader) boolean(name string) bool {
	if r.values[name] == "" {
		return false
	}
	b, err := strconv.ParseBool(r.values[name])
	if err != nil {
		r.errs = append(r.errs, fmt.Errorf("etcd's %s: %q is neither true nor false", name, r.values[name]))
	}
	return b
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
