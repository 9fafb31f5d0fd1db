package hosttest_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/requorum/requorum/internal/hosttest"
)

func TestHostsAreHosts(t *testing.T) {
	hosts := hosttest.Start(t, hosttest.Options{Run: []string{"--tmpfs=/data:size=8m"}}, "one", "two").Hosts
	one, two := hosts[0], hosts[1]

	if init := strings.TrimSpace(one.Run("cat", "/proc/1/comm")); init != "systemd" {
		t.Errorf("init is %q", init)
	}
	if got := one.Run("getent", "ahostsv4", "two"); !strings.HasPrefix(got, two.Address) {
		t.Errorf("two is not found at %s: %q", two.Address, got)
	}
	one.Write("/etc/requorum/a b", "content\n")
	one.Write("/run/gone", "")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("copied"), 0o700); err != nil {
		t.Fatal(err)
	}
	one.Copy(file, "/usr/local/bin/file")

	one.Reboot()
	if _, err := one.Exec(t.Context(), "ls", "/run/gone"); err == nil {
		t.Error("/run survived a reboot")
	}
	one.PowerOff()
	one.PowerOn()
	if got := one.Run("cat", "/etc/requorum/a b"); got != "content\n" {
		t.Errorf("a file holds %q after a power cut", got)
	}
	one.Fetch("/usr/local/bin/file", file+".back")
	if back, err := os.ReadFile(file + ".back"); err != nil || string(back) != "copied" {
		t.Errorf("fetched %q, %v", back, err)
	}
	if got := one.Run("ip", "-4", "-o", "address", "show", "eth0"); !strings.Contains(got, one.Address+"/") {
		t.Errorf("another address after the boot: %s", got)
	}
	if got := one.Run("df", "--output=target", "/data"); !strings.Contains(got, "/data") {
		t.Errorf("no file system of its own: %s", got)
	}
}

// Of a host that is lost, its volumes are left, and another one of its name and address gets them.
func TestALostHostIsReplaced(t *testing.T) {
	h := hosttest.Start(t, hosttest.Options{Volumes: []string{"/data"}}, "one").Hosts[0]
	h.Write("/data/kept", "content\n")
	h.Write("/etc/lost", "")
	h.Lose()
	h.Replace()
	if got := h.Run("cat", "/data/kept"); got != "content\n" {
		t.Errorf("the volume holds %q", got)
	}
	if _, err := h.Exec(t.Context(), "ls", "/etc/lost"); err == nil {
		t.Error("more than the volume has come back")
	}
	if got := h.Run("ip", "-4", "-o", "address", "show", "eth0"); !strings.Contains(got, h.Address+"/") {
		t.Errorf("another address: %s", got)
	}
}

func TestACutCableComesBack(t *testing.T) {
	hosts := hosttest.Start(t, hosttest.Options{}, "one", "two").Hosts
	one, two := hosts[0], hosts[1]
	reaches := func(from, to *hosttest.Host) bool {
		_, err := from.Exec(t.Context(), "ping", "-c1", "-W1", to.Address)
		return err == nil
	}
	if !reaches(two, one) {
		t.Fatal("the hosts do not reach each other")
	}
	one.Cut()
	if reaches(two, one) || reaches(one, two) {
		t.Error("a host that is cut off is reached")
	}
	if !reaches(one, one) {
		t.Error("a host that is cut off does not reach itself")
	}
	one.Mend()
	one.Await("it is reached", func() (bool, error) { return reaches(two, one), nil })
}
