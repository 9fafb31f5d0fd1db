package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/internal/lacking"
)

const hooksDir = "../deploy/hooks"

// manifest is what counts of a Job, a Pod or a Plan here.
type manifest struct {
	Metadata struct {
		Name        string            `yaml:"name"`
		Annotations map[string]string `yaml:"annotations"`
	} `yaml:"metadata"`
	Spec struct {
		Prepare  container `yaml:"prepare"`
		Template struct {
			Spec struct {
				Containers []container `yaml:"containers"`
			} `yaml:"spec"`
		} `yaml:"template"`
	} `yaml:"spec"`
}

type container struct {
	Args []string `yaml:"args"`
}

func parsed(t *testing.T, text []byte) (m manifest) {
	t.Helper()
	must(t, yaml.Unmarshal(text, &m))
	return m
}

// What the hooks' manifests have a container run is run, as their image does: requorum is its entrypoint, and the directory
// of a client is mounted. Helm's Job is the one that Helm renders.
func TestHooksOfManifests(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{})
	c.Write(50)
	helmed := rendered(t)
	commands := map[string][]string{
		"helm": helmed.Spec.Template.Spec.Containers[0].Args,
		"plan": parsed(t, read(t, "system-upgrade-controller.yaml")).Spec.Prepare.Args,
	}
	var exec []string
	must(t, json.Unmarshal([]byte(parsed(t, read(t, "velero-pre-backup.yaml")).Metadata.Annotations["pre.hook.backup.velero.io/command"]), &exec))
	commands["velero"] = exec[1:] // behind requorum's own path

	var name string
	for _, hook := range []string{"helm", "plan", "velero"} {
		r := c.Do(mounted(t, c, commands[hook])...)
		if name == "" {
			name = r.Stdout
		}
		if r.Stdout != name || show(t, c, strings.TrimSpace(name)).GetName() == "" { // all are young enough for the one snapshot
			t.Errorf("%s: not the name %q\n%s", hook, name, r)
		}
	}
	if show(t, c, strings.TrimSpace(name)).GetVerified() == nil {
		t.Error("the Plan asks for a drill")
	}
	noSnapshot(t, c, strings.TrimSpace(name))
	for _, hook := range []string{"helm", "plan", "velero"} {
		c.Expect(3, mounted(t, c, commands[hook])...)
	}
}

// noSnapshot makes a snapshot useless, and sees to it that no other can be taken.
func noSnapshot(t *testing.T, c *harness.Cluster, name string) {
	t.Helper()
	must(t, os.Remove(c.Copy("etcd-1", name)))
	c.Expect(3, "snapshot", "check", name)
	must(t, c.Process("etcd-2").Kill())
}

func read(t *testing.T, hook string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(hooksDir, hook))
	must(t, err)
	return data
}

// mounted replaces the place where a client's configuration is mounted.
func mounted(t *testing.T, c *harness.Cluster, args []string) []string {
	t.Helper()
	const mount = "--config=/etc/requorum/requorum.yaml"
	var all []string
	for _, arg := range args {
		all = append(all, strings.Replace(arg, mount, "--config="+c.AdminConfig(), 1))
	}
	if strings.Join(all, " ") == strings.Join(args, " ") {
		t.Fatalf("%q does not use %s", args, mount)
	}
	return all
}

// rendered is the Job as Helm makes it of a chart that has the hook among its templates.
func rendered(t *testing.T) manifest {
	t.Helper()
	helm, chart := tool(t, "HELM", "helm.mod", "helm.sh/helm/v3/cmd/helm"), t.TempDir()
	must(t, os.Mkdir(filepath.Join(chart, "templates"), 0o700))
	must(t, os.WriteFile(filepath.Join(chart, "Chart.yaml"), []byte("apiVersion: v2\nname: app\nversion: 1.0.0\nicon: https://example.org/icon.svg\n"), 0o600))
	must(t, os.WriteFile(filepath.Join(chart, "values.yaml"), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(chart, "templates", "requorum.yaml"), read(t, "helm-pre-upgrade.yaml"), 0o600))
	run := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), helm, args...)
		cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+t.TempDir(), "HELM_CONFIG_HOME="+t.TempDir(), "HELM_DATA_HOME="+t.TempDir())
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("helm %q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	run("lint", "--strict", chart)
	if without := run("template", "shop", chart, "--no-hooks"); strings.Contains(without, "requorum") {
		t.Errorf("Helm does not take it for a hook:\n%s", without)
	}
	job := parsed(t, []byte(run("template", "shop", chart, "--is-upgrade")))
	if job.Metadata.Name != "shop-requorum-pre-upgrade" || job.Metadata.Annotations["helm.sh/hook"] != "pre-upgrade" {
		t.Errorf("%+v", job.Metadata)
	}
	return job
}

// A playbook that imports the tasks goes on with the name of a snapshot, or stops before the upgrade.
func TestHookOfAnsible(t *testing.T) {
	t.Parallel()
	ansible, err := exec.LookPath("ansible-playbook")
	if err != nil {
		lacking.Part(t, "ansible-playbook is not installed (Debian's ansible-core)")
	}
	c := harness.Start(t, harness.Options{})
	c.Write(50)
	saved := c.Now()
	dir := t.TempDir()
	plain, _ := harness.Binaries(t)
	link(t, plain, filepath.Join(dir, "requorum"))
	tasks, err := filepath.Abs(filepath.Join(hooksDir, "ansible-pre-upgrade.yaml"))
	must(t, err)
	upgraded := filepath.Join(dir, "upgraded")
	playbook := filepath.Join(dir, "upgrade.yaml")
	must(t, os.WriteFile(playbook, []byte(`
- hosts: localhost
  connection: local
  gather_facts: false
  vars: {requorum_cluster: prod, kubernetes_version: v1.30.4}
  tasks:
    - ansible.builtin.import_tasks: `+tasks+`
    - name: Upgrade
      ansible.builtin.copy:
        content: "{{ requorum_snapshot }}"
        dest: `+upgraded+`
`), 0o600))
	play := func() harness.Result {
		return c.Run("env", "PATH="+dir+":"+os.Getenv("PATH"), "REQUORUM_CONFIG="+c.AdminConfig(), "HOME="+dir, "ANSIBLE_LOCALHOST_WARNING=false",
			"ANSIBLE_LOCAL_TEMP="+filepath.Join(dir, "tmp"), "LC_ALL=C.UTF-8", ansible, "-i", "localhost,", playbook)
	}
	first := play()
	name, err := os.ReadFile(upgraded)
	if first.Code != 0 || err != nil || show(t, c, string(name)).GetManifest().GetLabels()["kubernetes-version"] != "v1.30.4" {
		t.Fatalf("%q, %v\n%s", name, err, first)
	}
	says(t, first, "changed=2", "--snapshot "+string(name)+" --yes")
	says(t, play(), "changed=0") // the snapshot is young enough, and the upgrade is done

	must(t, os.Remove(upgraded))
	noSnapshot(t, c, string(name))
	stopped := play()
	if _, err := os.Stat(upgraded); stopped.Code == 0 || !os.IsNotExist(err) {
		t.Errorf("the upgrade has begun: %v\n%s", err, stopped)
	}
	says(t, stopped, "failed=1", "etcd-2")
	c.StartAgain("etcd-2")
	c.Write(10)
	c.Do("restore", "--snapshot", string(name), "--yes")
	holds(t, c, saved)
}
