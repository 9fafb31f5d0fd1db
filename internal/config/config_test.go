package config_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/requorum/requorum/internal/config"
)

type common struct {
	LogLevel string `yaml:"log_level"`
}

type sample struct {
	common  `yaml:",inline"`
	Listen  string            `yaml:"listen"`
	Stall   config.Duration   `yaml:"stall"`
	Quota   config.Bytes      `yaml:"quota"`
	Workers int               `yaml:"workers"`
	Labels  map[string]string `yaml:"labels"`
	Stores  []struct {
		Bucket string `yaml:"bucket"`
	} `yaml:"stores"`
	TLS *struct {
		Cert string `yaml:"cert"`
	} `yaml:"tls"`
}

func load(t *testing.T, text string, into any) error {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	err := config.Load(path, into)
	if err == nil {
		return nil
	}
	return errors.New(strings.ReplaceAll(err.Error(), path, "c.yaml"))
}

func TestLoadReadsEveryKindOfValueAndKeepsDefaults(t *testing.T) {
	got := sample{Listen: ":9443", Workers: 4}
	err := load(t, "log_level: debug\nstall: 72h\nquota: 8GiB\nlabels: {a: b}\nstores:\n  - bucket: x\ntls:\n  cert: c.pem\n", &got)
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case got.LogLevel != "debug", got.Stall.Std() != 72*time.Hour, got.Quota != 8<<30, got.Labels["a"] != "b",
		got.Stores[0].Bucket != "x", got.TLS.Cert != "c.pem":
		t.Errorf("read %+v", got)
	case got.Listen != ":9443" || got.Workers != 4:
		t.Errorf("defaults were overwritten: %+v", got)
	}
}

func TestLoadTakesAnEmptyFile(t *testing.T) {
	if err := load(t, "# nothing\n", &sample{}); err != nil {
		t.Error(err)
	}
}

func TestLoadSaysWhatIsWrongAndWhere(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"misspelt key":      {"listen: x\nlissen: y\n", "c.yaml:2: unknown key lissen; did you mean listen?"},
		"inlined key":       {"log_levle: x\n", "c.yaml:1: unknown key log_levle; did you mean log_level?"},
		"nested key":        {"tls:\n  cret: y\n", "c.yaml:2: unknown key cret; did you mean cert?"},
		"key in a list":     {"stores:\n  - bucket: a\n  - buket: b\n", "c.yaml:3: unknown key buket; did you mean bucket?"},
		"far from any key":  {"tls:\n  passphrase: y\n", "c.yaml:2: unknown key passphrase; known here: cert"},
		"twice":             {"listen: x\nstall: 1s\nlisten: y\n", "c.yaml:3: listen is given twice, first in line 1"},
		"twice in a map":    {"labels:\n  a: x\n  a: y\n", "c.yaml:3: a is given twice, first in line 2"},
		"several":           {"lissen: x\nworkrs: y\n", "c.yaml:1: unknown key lissen; did you mean listen?\nc.yaml:2: unknown key workrs; did you mean workers?"},
		"duration, no unit": {"\nstall: 72\n", `c.yaml:2: "72" is not a duration; write it with its unit, as 72h or 10m`},
		"negative duration": {"stall: -1s\n", `c.yaml:1: "-1s" is negative`},
		"duration, a list":  {"stall: [1s]\n", "c.yaml:1: a single value is needed here"},
		"size":              {"quota: lots\n", `c.yaml:1: "lots" is not a size; write it as 512MiB, 2GB or 65536`},
		"wrong type":        {"listen: x\nworkers: many\n", "c.yaml:2: cannot unmarshal !!str `many` into int"},
		"not YAML":          {"listen: x\n\tworkers: 1\n", "c.yaml:2: found a tab character that violates indentation"},
		"two documents":     {"listen: x\n---\nlisten: y\n", "c.yaml:2: a second YAML document begins here; only one is read"},
		"a list":            {"- listen\n", "c.yaml:1: cannot unmarshal !!seq into config_test.sample"},
	} {
		t.Run(name, func(t *testing.T) {
			err := load(t, c.text, &sample{})
			if err == nil || err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestLoadSaysThatTheFileIsMissing(t *testing.T) {
	err := config.Load("/nowhere/requorum.yaml", &sample{})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "there is no configuration file /nowhere/requorum.yaml") {
		t.Error(err)
	}
}

func TestDurationIsWrittenAsItIsRead(t *testing.T) {
	for _, text := range []string{"72h", "1h30m", "10m", "1m5s", "500ms", "0s"} {
		var d config.Duration
		if err := d.Set(text); err != nil {
			t.Fatal(err)
		}
		out, err := yaml.Marshal(d)
		if err != nil || strings.TrimSpace(string(out)) != text {
			t.Errorf("%s became %s, %v", text, out, err)
		}
	}
}
