// Package systemd runs etcd as a unit of systemd, to which it talks over D-Bus.
//
// A unit that was stopped must stay stopped, whoever or whatever starts it: a dependency, Restart=, a timer, a person, a
// reboot. A mask would do, but a unit in /etc cannot be masked. So the runtime adds a drop-in to the unit with an
// assertion that holds only once the drop-in is gone. systemd evaluates it at every start, and whoever tries to start
// the unit is told the drop-in's path.
//
// The member's configuration is what systemd has loaded: ExecStart with its variables put in, Environment,
// EnvironmentFile and UnsetEnvironment, or the file that etcd's --config-file names.
package systemd
