package config

import (
	"testing"
)

// FuzzParse: whatever a file holds, it is read or refused with an error that names the file.
func FuzzParse(f *testing.F) {
	type settings struct {
		Name   string            `yaml:"name"`
		Wait   Duration          `yaml:"wait"`
		List   []string          `yaml:"list"`
		Labels map[string]string `yaml:"labels"`
		Inner  *struct {
			Count int `yaml:"count"`
		} `yaml:"inner"`
	}
	f.Add([]byte("name: a\nwait: 5s\nlist: [x, y]\nlabels: {k: v}\ninner:\n  count: 3\n"))
	f.Add([]byte("name: &a [*a]\n---\nname: b\n"))
	f.Add([]byte("inner: {count: {count: 1}}\nunknown: 1\n<<: {name: c}\n"))
	f.Add([]byte("a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		into := settings{Name: "default"}
		if err := parse("agent.yaml", data, &into); err != nil && err.Error() == "" {
			t.Fatal("refused without a word")
		}
	})
}
