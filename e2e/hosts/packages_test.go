package hosts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/e2e/hosts/operator"
	"github.com/requorum/requorum/internal/hosttest"
)

// packages makes the packages of a version of requorum. It returns the directory that they are in.
func packages(t *testing.T, version string) string {
	t.Helper()
	dir, root := t.TempDir(), filepath.Join("..", "..")
	binary, sbom := filepath.Join(dir, "requorum"), filepath.Join(dir, "sbom.json")
	// What it is made of is of no matter here, and takes its time.
	if err := os.WriteFile(sbom, []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"go", "build", "-buildvcs=false", "-ldflags", "-s -w -X github.com/requorum/requorum/internal/version.release=" + version, "-o", binary, "./cmd/requorum"},
		{"deploy/package/build.sh", binary, sbom, version, "go", "tool", "-modfile=internal/tools/nfpm.mod", "nfpm"},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0", "DIST="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	return dir
}

// format is a kind of package, with the commands that a shell on the host handles it with.
type format struct {
	ending string
	unpack string // installs the package at /root/requorum.ENDING, or upgrades to it
	remove string
}

var (
	deb = format{ending: "deb", unpack: "dpkg -i /root/requorum.deb </dev/null", remove: "dpkg -r requorum"} // it has nobody to ask what to do with configuration
	rpm = format{ending: "rpm", unpack: "rpm -U --nodeps /root/requorum.rpm", remove: "rpm -e requorum"}     // nothing else of the host is a package of its kind
)

const units = "requorum-controller requorum-agent"

// packaged is one host that is controller and node, installed from a package.
type packaged struct {
	*site
	format
	host *hosttest.Host
}

func newPackaged(t *testing.T, f format) packaged {
	t.Helper()
	h := hosttest.Start(t, hosttest.Options{}, "etcd-1").Hosts[0]
	return packaged{&site{t: t, controller: h, nodes: []*hosttest.Host{h}}, f, h}
}

// install installs the package of a version, which is in dir, or upgrades to it.
func (p packaged) install(version, dir string) {
	p.t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*."+p.ending))
	if err != nil || len(files) != 1 {
		p.t.Fatalf("packages of %s: %v, %v", version, files, err)
	}
	p.host.Copy(files[0], "/root/requorum."+p.ending)
	p.shell(p.unpack)
	if got := p.host.Run("requorum", "--version"); !strings.Contains(got, version) {
		p.t.Errorf("installed %s, got %s", version, got)
	}
}

// shell runs a line of shell and returns all that it said.
func (p packaged) shell(line string) string {
	p.t.Helper()
	return p.host.Run("sh", "-c", "exec 2>&1; "+line)
}

// expectState fails unless systemctl says the same of both units.
func (p packaged) expectState(asked, state string) {
	p.t.Helper()
	out := p.host.Run("sh", "-c", "systemctl "+asked+" "+units+" || true")
	if want := state + "\n" + state + "\n"; out != want {
		p.t.Errorf("systemctl %s: %q, expected %q", asked, out, want)
	}
}

// expectLeft fails unless the files are there.
func (p packaged) expectLeft(files ...string) {
	p.t.Helper()
	p.host.Run(append([]string{"ls", "-d"}, files...)...)
}

// expectGone fails if one of the files is there.
func (p packaged) expectGone(files ...string) {
	p.t.Helper()
	for _, file := range files {
		if _, err := p.host.Exec(p.t.Context(), "ls", "-d", file); err == nil {
			p.t.Errorf("%s is there", file)
		}
	}
}

func (p packaged) pid(unit string) string {
	p.t.Helper()
	return p.host.Run("systemctl", "show", "--value", "--property=MainPID", unit)
}

func (p packaged) awaitHealthy() {
	p.t.Helper()
	p.host.Await("the cluster is healthy", func() (bool, error) {
		status, err := p.try("cluster", "status")
		return strings.Contains(status, "1 of 1 connected") && strings.Contains(status, "leader"), errors.Join(err, errors.New(status))
	})
}

// configure does what docs/install.md tells to do once the package is there.
func (p packaged) configure() {
	p.t.Helper()
	p.host.Run("systemctl", "enable", "--now", "requorum-controller")
	p.host.Await("the controller serves", func() (bool, error) { _, err := p.try("cluster", "ls"); return err == nil, err })
	p.host.Write("/etc/requorum/join-token", p.cli("token", "create", "--cluster", "prod"))
	p.host.Run("sed", "-i", "s/^# controller:.*/controller: localhost:7079/", "/etc/requorum/agent.yaml")
	p.host.Run("systemctl", "enable", "--now", "requorum-agent")
	p.awaitHealthy()
}

// expectRefusalWhereDataIsReadOnly fails unless the plan of a restore says that the unit does not let the agent write
// where etcd's data is.
func (p packaged) expectRefusalWhereDataIsReadOnly() {
	p.t.Helper()
	const dropIn = "/etc/systemd/system/requorum-agent.service.d/narrow.conf"
	reload := func() { p.host.Run("sh", "-c", "systemctl daemon-reload && systemctl restart requorum-agent") }
	p.host.Write(dropIn, "[Service]\nReadWritePaths=\nReadWritePaths=/var/lib/requorum\n")
	reload()
	p.host.Await("the plan tells what to do", func() (bool, error) {
		out, err := p.try("restore", "--snapshot", "before", "--plan")
		return err != nil && strings.Contains(out, "/var/lib is read-only for the agent"), errors.Join(err, errors.New(out))
	})
	p.host.Run("rm", "-r", "/etc/systemd/system/requorum-agent.service.d")
	reload()
	p.host.Await("the plan finds nothing", func() (bool, error) {
		_, err := p.try("restore", "--snapshot", "before", "--plan")
		return err == nil, err
	})
}

func TestPackage(t *testing.T) {
	hosttest.Image(t)
	older, newer := packages(t, "v1.0.0"), packages(t, "v1.1.0")
	t.Run("deb", func(t *testing.T) {
		t.Parallel()
		p := newPackaged(t, deb)
		p.livesOn(older, newer)
		p.expectLeft("/etc/requorum/agent.yaml", "/etc/requorum/controller.yaml")

		t.Log("again")
		p.shell(p.unpack)
		p.host.Reboot()
		p.expectState("is-enabled", "enabled")
		p.expectSnapshot()

		t.Log("purge")
		p.expectSaysWhatIsLeft(p.shell("dpkg --purge requorum"))
		p.expectGone("/etc/requorum/agent.yaml", "/etc/requorum/controller.yaml", "/usr/bin/requorum",
			"/etc/systemd/system/multi-user.target.wants/requorum-agent.service", "/etc/systemd/system/multi-user.target.wants/requorum-controller.service")
		p.expectData()
	})
	t.Run("rpm", func(t *testing.T) {
		t.Parallel()
		p := newPackaged(t, rpm)
		p.expectSaysWhatIsLeft(p.livesOn(older, newer))
		p.expectLeft("/etc/requorum/agent.yaml.rpmsave") // which was changed
		p.expectGone("/etc/requorum/agent.yaml", "/etc/requorum/controller.yaml",
			"/etc/systemd/system/multi-user.target.wants/requorum-agent.service", "/etc/systemd/system/multi-user.target.wants/requorum-controller.service")

		t.Log("again")
		p.shell(p.unpack)
		p.expectState("is-enabled", "disabled")
		p.shell("mv /etc/requorum/agent.yaml.rpmsave /etc/requorum/agent.yaml && systemctl enable --now " + units)
		p.expectSnapshot()
	})
}

// livesOn installs the package in older, works with it, upgrades to that in newer, and removes it. Data stays and etcd is left alone.
// It returns what the removal said.
func (p packaged) livesOn(older, newer string) string {
	t, h := p.t, p.host
	t.Helper()
	h.Copy(operator.Binary(t), "/usr/local/bin/etcd") // a file of its own, which stays when the package goes

	p.install("v1.0.0", older)
	p.expectState("is-enabled", "disabled")
	p.expectState("is-active", "inactive")
	if out, err := h.Exec(t.Context(), "requorum", "agent", "--config", "/etc/requorum/agent.yaml"); err == nil || !strings.Contains(err.Error(), "controller") {
		t.Errorf("an agent that nobody has configured: %v\n%s", err, out)
	}

	p.startEtcd()
	p.configure()
	p.put("in the snapshot")
	p.cli("snapshot", "save", "--name", "before")
	p.put("after it")
	p.expectRefusalWhereDataIsReadOnly()
	p.cli("restore", "--snapshot", "before", "--yes")
	p.expect("in the snapshot")
	p.expectUnits()
	if left := strings.TrimSpace(h.Run("stat", "-c", "%U %a", "/var/lib/requorum/controller")); left != "requorum 700" {
		t.Errorf("the controller's data is %q", left)
	}

	t.Log("upgrade")
	config, running, member := h.Run("cat", "/etc/requorum/agent.yaml"), p.pid("requorum-agent"), p.pid("etcd")
	p.install("v1.1.0", newer)
	p.expectState("is-enabled", "enabled")
	p.expectState("is-active", "active")
	if now := p.pid("requorum-agent"); now == running {
		t.Error("the agent of the old version still runs")
	}
	if now := p.pid("etcd"); now != member {
		t.Error("the upgrade restarted etcd")
	}
	if now := h.Run("cat", "/etc/requorum/agent.yaml"); now != config {
		t.Errorf("another configuration after the upgrade:\n%s", now)
	}
	p.expectSnapshot()

	t.Log("removal")
	said := p.shell(p.remove)
	p.expectState("is-active", "inactive")
	p.expectGone("/usr/bin/requorum")
	p.expectData()
	if now := p.pid("etcd"); now != member {
		t.Error("the removal touched etcd")
	}
	return said
}

// expectSnapshot fails unless the cluster comes up and all copies of its snapshot are good.
func (p packaged) expectSnapshot() {
	p.t.Helper()
	p.awaitHealthy()
	p.cli("snapshot", "check", "before")
}

// expectData fails unless there still is what no package ever removes.
func (p packaged) expectData() {
	p.t.Helper()
	p.expectLeft("/etc/requorum/join-token", "/var/lib/requorum/controller/admin", "/var/lib/requorum/agent/snapshots")
}

func (p packaged) expectSaysWhatIsLeft(said string) {
	p.t.Helper()
	if !strings.Contains(said, "/var/lib/requorum is left") {
		p.t.Errorf("it does not say what it leaves:\n%s", said)
	}
}

// The image has nothing but requorum, and its controller needs no root.
func TestImage(t *testing.T) {
	hosttest.Image(t) // an engine is there
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "image.tar")
	name := "requorum-test:" + strings.ToLower(filepath.Base(filepath.Dir(file)))
	binary, err := filepath.Abs(operator.Binary(t))
	if err != nil {
		t.Fatal(err)
	}
	docker := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("docker", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("docker %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	build := exec.Command("go", "run", ".", "-binary", binary, "-tag", name, "-arch", runtime.GOARCH, "-out", file)
	build.Dir, build.Env = filepath.Join(root, "internal", "tools", "image"), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("make the image: %v\n%s", err, out)
	}
	docker("load", "--input", file)
	t.Cleanup(func() { docker("rmi", "--force", name) })
	container := docker("run", "--detach", "--network", "none", "--read-only", "--cap-drop", "ALL", "--tmpfs", "/var/lib/requorum:uid=65532,mode=0700", name, "controller")
	t.Cleanup(func() { docker("rm", "--force", container) })
	if user := docker("inspect", "--format", "{{.Config.User}}", container); user != "65532:65532" {
		t.Errorf("the image runs as %q", user)
	}
	await(t, "the controller serves", func() error {
		out, err := exec.Command("docker", "exec", container, "requorum", "--config", "/var/lib/requorum/controller/admin/requorum.yaml", "cluster", "ls").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// await waits until done returns no error.
func await(t *testing.T, what string, done func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for {
		err := done()
		if err == nil {
			return
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			t.Fatalf("in vain it was waited until %s: %v", what, err)
		}
	}
}
