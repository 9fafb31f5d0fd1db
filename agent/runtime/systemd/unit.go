package systemd

import (
	"context"
	"errors"
	"fmt"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/coreos/go-systemd/v22/dbus"

	"github.com/requorum/requorum/agent/runtime"
)

// ErrNoUnit says that systemd knows no such unit.
var ErrNoUnit = errors.New("there is no such unit")

// unit is what systemd has loaded of a unit, and its state.
type unit struct {
	name string // its own, not an alias

	path             string   // of the program
	argv             []string // variables not yet put in; argv[0] is as a rule the path
	literal          bool     // variables are not put in
	commands         int      // how many ExecStart= there are
	assignments      []string // Environment=
	environmentFiles []environmentFile
	unset            []string // UnsetEnvironment=

	user, group      string
	dynamicUser      bool
	workingDirectory string
	root             string // a file system tree of its own

	active     string // ActiveState
	result     string // of the last run
	fileState  string // enabled, disabled, static, …
	mainPID    uint32
	restarts   uint32 // by Restart=, since it was started
	started    uint64 // when the program was started last, in µs of the monotonic clock
	invocation string // ID of the last run
	cgroup     string // empty if the unit has no process
}

// load asks systemd for a unit. It fails with ErrNoUnit, or with why systemd could not load it.
func load(ctx context.Context, conn *dbus.Conn, name string) (*unit, error) {
	p, err := conn.GetAllPropertiesContext(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("ask systemd for %s: %w", name, err)
	}
	switch state := get[string](p, "LoadState"); state {
	case "loaded":
	case "not-found":
		return nil, fmt.Errorf("%s: %w", name, ErrNoUnit)
	case "masked":
		return nil, fmt.Errorf("%s is masked; run systemctl unmask %s", name, name)
	default:
		return nil, fmt.Errorf("systemd cannot load %s (%s); see systemctl status %s", name, state, name)
	}
	u := &unit{
		name:        get[string](p, "Id"),
		assignments: get[[]string](p, "Environment"), unset: get[[]string](p, "UnsetEnvironment"),
		user: get[string](p, "User"), group: get[string](p, "Group"), dynamicUser: get[bool](p, "DynamicUser"),
		workingDirectory: get[string](p, "WorkingDirectory"), root: get[string](p, "RootDirectory") + get[string](p, "RootImage"),
		active: get[string](p, "ActiveState"), result: get[string](p, "Result"), fileState: get[string](p, "UnitFileState"),
		mainPID: get[uint32](p, "MainPID"), restarts: get[uint32](p, "NRestarts"), started: get[uint64](p, "ExecMainStartTimestampMonotonic"),
		invocation: fmt.Sprintf("%x", get[[]byte](p, "InvocationID")), cgroup: get[string](p, "ControlGroup"),
	}
	for _, f := range get[[][]any](p, "EnvironmentFiles") {
		if len(f) == 2 {
			u.environmentFiles = append(u.environmentFiles, environmentFile{path: as[string](f[0]), optional: as[bool](f[1])})
		}
	}
	commands := get[[][]any](p, "ExecStartEx")
	if len(commands) == 0 { // before systemd 243, with a boolean in place of the flags
		commands = get[[][]any](p, "ExecStart")
	}
	u.setCommand(commands)
	return u, nil
}

// setCommand takes the last ExecStart= as D-Bus gives it: path, arguments, flags, and what became of it.
func (u *unit) setCommand(commands [][]any) {
	u.commands = len(commands)
	for _, c := range commands {
		if len(c) < 3 {
			continue
		}
		u.path, u.argv = as[string](c[0]), as[[]string](c[1])
		for _, flag := range as[[]string](c[2]) {
			u.literal = u.literal || flag == "no-env-expand"
		}
	}
}

// get returns a property, or the zero value if systemd does not have it or has another type for it.
func get[T any](properties map[string]any, name string) T { return as[T](properties[name]) }

func as[T any](v any) T {
	t, _ := v.(T) // the zero value is what is wanted otherwise
	return t
}

// command returns etcd's arguments, without its name, and its environment.
func (u *unit) command() (args, env []string, err error) {
	if u.commands != 1 || len(u.argv) == 0 {
		return nil, nil, fmt.Errorf("%s has %d commands in ExecStart, and one is expected that runs etcd", u.name, u.commands)
	}
	if env, err = u.environment(); err != nil {
		return nil, nil, err
	}
	args = u.argv[1:]
	if !u.literal {
		args = expand(args, env)
	}
	return args, env, nil
}

// member returns what read makes of the unit's command, with the owner that the unit's data has.
func (u *unit) member(read func(Command) (runtime.Member, error)) (runtime.Member, error) {
	if u.dynamicUser {
		return runtime.Member{}, fmt.Errorf("%s has DynamicUser=yes, whose files belong to nobody while it is stopped; give it a User= and Group= of its own", u.name)
	}
	if u.root != "" {
		return runtime.Member{}, fmt.Errorf("%s runs in a root file system of its own (%s), where the agent cannot find its data; use the exec runtime", u.name, u.root)
	}
	args, env, err := u.command()
	if err != nil {
		return runtime.Member{}, err
	}
	uid, gid, home, err := u.owner()
	if err != nil {
		return runtime.Member{}, err
	}
	m, err := read(Command{Args: args, Env: env, Dir: u.directory(home)})
	if err != nil {
		return runtime.Member{}, fmt.Errorf("%s: %w", u.name, err)
	}
	m.UID, m.GID = uid, gid
	return m, nil
}

// directory returns the working directory. systemd marks one that need not exist with an exclamation mark.
func (u *unit) directory(home string) string {
	dir := strings.TrimPrefix(u.workingDirectory, "!")
	if dir == "~" {
		return home
	}
	return filepath.Join("/", dir)
}

// owner returns the user and group that the unit runs as, and the user's home directory.
func (u *unit) owner() (uid, gid int, home string, err error) {
	name := u.user
	if name == "" {
		name = "root"
	}
	account, err := user.Lookup(name)
	if err != nil {
		if account, err = user.LookupId(name); err != nil {
			return 0, 0, "", fmt.Errorf("user %q of %s is not in /etc/passwd: %w", name, u.name, err)
		}
	}
	group := account.Gid
	if u.group != "" {
		g, err := user.LookupGroup(u.group)
		if err != nil {
			if g, err = user.LookupGroupId(u.group); err != nil {
				return 0, 0, "", fmt.Errorf("group %q of %s is not in /etc/group: %w", u.group, u.name, err)
			}
		}
		group = g.Gid
	}
	uid, uidErr := strconv.Atoi(account.Uid)
	gid, gidErr := strconv.Atoi(group)
	return uid, gid, account.HomeDir, errors.Join(uidErr, gidErr)
}
