package systemd

import (
	"slices"
	"testing"
)

func TestEnvironmentFilesAreReadAsSystemdDoes(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want []string
	}{
		"plain":                      {"A=1\nB=2", []string{"A=1", "B=2"}},
		"comments and other lines":   {"# A=1\n; B=2\n\nexport\nC=3\n", []string{"C=3"}},
		"a comment that goes on":     {"# A \\\nB=1\nC=2", []string{"C=2"}},
		"blanks":                     {"  A =  one two  \n\tB=\"  kept  \"  \n", []string{"A=one two", "B=  kept  "}},
		"single quotes":              {`A='a "b" \ $c'`, []string{`A=a "b" \ $c`}},
		"double quotes":              {`A="a \"b\" \$c \d"`, []string{`A=a "b" $c \d`}},
		"parts":                      {`A=a'b 'c"d "e`, []string{"A=ab cd e"}},
		"a line that goes on":        {"A=--one \\\n--two\nB=2", []string{"A=--one --two", "B=2"}},
		"a quoted line that goes on": {"A=\"--one \\\n--two\"", []string{"A=--one --two"}},
		"a quoted line break":        {"A=\"one\ntwo\"", []string{"A=one\ntwo"}},
		"no name for a variable":     {"A-B=1\n1A=2\nA_1=3", []string{"A_1=3"}},
		"carriage returns":           {"A=1\r\nB=2\r\n", []string{"A=1", "B=2"}},
		"values with an equals sign": {"ETCD_INITIAL_CLUSTER=a=http://a:2380,b=http://b:2380", []string{"ETCD_INITIAL_CLUSTER=a=http://a:2380,b=http://b:2380"}},
		"empty":                      {"A=\nB=1", []string{"A=", "B=1"}},
	} {
		if got := parseEnvironmentFile(test.text); !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, expected %q", name, got, test.want)
		}
	}
}

func TestVariablesArePutIntoCommands(t *testing.T) {
	env := []string{"ARGS=--name=a  --data-dir='/d d'", "NAME=m1", "EMPTY="}
	for arg, want := range map[string][]string{
		"$ARGS":        {"--name=a", "--data-dir=/d d"},
		"${ARGS}":      {"--name=a  --data-dir='/d d'"},
		"--name=$NAME": {"--name=$NAME"},
		"--n=${NAME}x": {"--n=m1x"},
		"$$NAME":       {"$NAME"},
		"$${NAME}":     {"${NAME}"},
		"$EMPTY":       nil,
		"${UNSET}":     {""},
		"$UNSET":       nil,
		"100$":         {"100$"},
	} {
		if got := expand([]string{arg}, env); !slices.Equal(got, want) {
			t.Errorf("%s: %q, expected %q", arg, got, want)
		}
	}
}

func TestFilesComeAfterEnvironmentAndUnsetComesLast(t *testing.T) {
	u := &unit{
		name: "etcd.service", assignments: []string{"A=1", "B=1", "C=1", "D=1"},
		environmentFiles: []environmentFile{{path: "/no/such/file", optional: true}}, unset: []string{"B", "C=2", "D=1"},
	}
	got, err := u.environment()
	if want := []string{"A=1", "C=1"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v; expected %q", got, err, want)
	}
	u.environmentFiles[0].optional = false
	if _, err := u.environment(); err == nil {
		t.Error("a file that has to be there is not, and that is no error")
	}
}

func TestAProcessIsInTheGroupThatItNames(t *testing.T) {
	for lines, want := range map[string]bool{
		"0::/system.slice/etcd.service\n":                              true,
		"0::/system.slice/etcd.service/sub\n":                          true,
		"0::/system.slice/etcd.service2\n":                             false,
		"12:memory:/x\n1:name=systemd:/system.slice/etcd.service\n":    true,
		"12:memory:/system.slice/etcd.service\n1:name=systemd:/init\n": false,
		"": false,
	} {
		if got := within(lines, "/system.slice/etcd.service"); got != want {
			t.Errorf("%q: %v", lines, got)
		}
	}
}
