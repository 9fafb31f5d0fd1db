package cli

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/requorum/requorum/cmd/requorum/cli/output"
	"github.com/requorum/requorum/internal/config"
)

// clientConfig is the client's configuration file. Paths are relative to the file.
type clientConfig struct {
	Controller string `yaml:"controller"`
	CA         string `yaml:"ca"`
	Cert       string `yaml:"cert"`
	Key        string `yaml:"key"`
}

// settings are the global flags.
type settings struct {
	clientConfig
	config   string
	format   output.Format
	logLevel string
}

func (s *settings) addFlags(root *cobra.Command) {
	flags := root.PersistentFlags()
	flags.StringVar(&s.config, "config", "", "client configuration `FILE`")
	flags.StringVar(&s.Controller, "controller", "", "address of the controller, `HOST:PORT`")
	flags.StringVar(&s.CA, "ca", "", "`FILE` with the CA certificates to trust")
	flags.StringVar(&s.Cert, "cert", "", "`FILE` with your certificate")
	flags.StringVar(&s.Key, "key", "", "`FILE` with your private key")
	flags.VarP(&s.format, "output", "o", "how to print the answer")
	flags.StringVar(&s.logLevel, "log-level", "warn", "what to log on stderr: trace, debug, info, warn or error")
}

// resolve completes the flags with what the configuration file says.
func (s *settings) resolve() (clientConfig, error) {
	resolved := s.clientConfig
	path, err := s.find()
	if err != nil {
		return resolved, &UsageError{Err: err}
	}
	if path != "" {
		var file clientConfig
		if err := config.Load(path, &file); err != nil {
			return resolved, &UsageError{Err: err}
		}
		resolved = resolved.or(file.relativeTo(filepath.Dir(path)))
	}
	for _, needed := range []struct{ value, flag string }{
		{resolved.Controller, "controller"}, {resolved.CA, "ca"}, {resolved.Cert, "cert"}, {resolved.Key, "key"},
	} {
		if needed.value == "" {
			return resolved, advised(usagef("--%s is not given, and no configuration file says it", needed.flag), lookedAt(path)...)
		}
	}
	return resolved, nil
}

// find returns the configuration file to read, empty if there is none. One that was named must be there.
func (s *settings) find() (string, error) {
	if s.config != "" {
		return s.config, nil
	}
	if named := os.Getenv("REQUORUM_CONFIG"); named != "" {
		return named, nil
	}
	for _, path := range usualConfigs() {
		_, err := os.Stat(path)
		if err == nil {
			return path, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			return "", err
		}
	}
	return "", nil
}

func usualConfigs() []string {
	paths := []string{"/etc/requorum/requorum.yaml"}
	if dir, err := os.UserConfigDir(); err == nil {
		paths = append([]string{filepath.Join(dir, "requorum", "requorum.yaml")}, paths...)
	}
	return paths
}

func lookedAt(path string) []string {
	if path != "" {
		return []string{"looked in " + path}
	}
	advice := []string{
		"the controller wrote the first admin's to admin/requorum.yaml in its data directory",
		"an admin makes one for you with: requorum access create",
	}
	for _, usual := range usualConfigs() {
		advice = append(advice, "looked for "+usual)
	}
	return advice
}

func (c clientConfig) or(other clientConfig) clientConfig {
	pick := func(a, b string) string {
		if a != "" {
			return a
		}
		return b
	}
	return clientConfig{
		Controller: pick(c.Controller, other.Controller),
		CA:         pick(c.CA, other.CA),
		Cert:       pick(c.Cert, other.Cert),
		Key:        pick(c.Key, other.Key),
	}
}

func (c clientConfig) relativeTo(dir string) clientConfig {
	for _, path := range []*string{&c.CA, &c.Cert, &c.Key} {
		if *path != "" && !filepath.IsAbs(*path) {
			*path = filepath.Join(dir, *path)
		}
	}
	return c
}

// timeFlag adds a flag whose default, which the controller knows, stands in its usage.
func timeFlag(flags *pflag.FlagSet, d pflag.Value, name, usage string) {
	flags.Var(d, name, usage)
	flags.Lookup(name).DefValue = ""
}

func labelFlag(flags *pflag.FlagSet, labels *map[string]string) {
	flags.StringToStringVar(labels, "label", nil, "label `KEY=VALUE` to keep with the snapshot; may be repeated")
	flags.Lookup("label").DefValue = ""
}
